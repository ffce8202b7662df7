"""What a graph can be compiled for."""
