"""Benchmarks: each figure beside its peer or its limit, taken in the same run (README.md)."""
