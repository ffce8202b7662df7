"""Our own traceable definitions of the supported models."""
