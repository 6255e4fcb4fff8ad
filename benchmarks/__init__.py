"""Benchmarks against the peers, and the torture suite: ``python -m benchmarks`` and ``python -m benchmarks.torture``."""
