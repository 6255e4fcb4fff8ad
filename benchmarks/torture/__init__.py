"""The torture suite: what pools do when things go wrong. ``python -m benchmarks.torture``."""
