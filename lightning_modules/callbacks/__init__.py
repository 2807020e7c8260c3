"""Callbacks for any system."""
