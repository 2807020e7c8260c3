"""Tokenizers, and how to train them."""
