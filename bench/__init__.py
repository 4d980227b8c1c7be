"""Benchmarks: ratios of rheos and a peer, timed in turn in one process."""
