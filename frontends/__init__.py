"""Readers that turn checkpoints and exported models into graphs."""
