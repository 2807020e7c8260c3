"""Measurements: one subject a file, every one a comparison in one run."""
