"""FPGAs: one engine that all layers take turns on, as HLS C++."""
