"""Sentence pairs: sources, batches and DataModules."""
