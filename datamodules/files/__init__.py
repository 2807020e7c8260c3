"""Folders, archives, text files and a cache on disk."""
