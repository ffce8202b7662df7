"""MMC's CPU target beside its peers: `python -m benchmarks.cpu` makes docs/benchmarks-cpu.md."""
