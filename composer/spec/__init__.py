"""Read and write graphs as YAML, and compute their digests."""
