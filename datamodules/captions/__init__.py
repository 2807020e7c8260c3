"""Captioned images: sources, batches and DataModules."""
