"""Benchmarks against the peers (``python -m benchmarks``), and the torture suite (``... benchmarks.torture``)."""
