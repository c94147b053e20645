"""One file a row: see `benchmarks.row`."""
