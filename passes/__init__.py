"""The rewrite engine, the pass manager, and one file per pass."""
