"""Image classification systems."""
