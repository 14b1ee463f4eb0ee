"""Benchmarks: ``python -m benchmarks.<name>`` runs one, prints one table and writes one JSON file."""
