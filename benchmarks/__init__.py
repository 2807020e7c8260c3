"""Benchmarks, one subject per file; each compares its candidates within one run."""
