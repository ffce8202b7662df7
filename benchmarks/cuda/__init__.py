"""MMC's CUDA target beside its peers."""
