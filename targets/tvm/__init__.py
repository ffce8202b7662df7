"""Code that every TVM-compiled target shares: the host program, its object file, its loader."""
