"""Figures, and the attention maps that they show."""
