"""Figures and what they show."""
