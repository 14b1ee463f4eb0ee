"""Benchmarks: ``python -m benchmarks.<name>`` runs one, prints a table and writes a JSON file."""
