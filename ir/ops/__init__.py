"""The operation set, one file per family; `catalog` imports them all."""
