"""Benchmarks: each module is run with ``python -m benchmarks.<name>``, prints one table and writes one JSON file."""
