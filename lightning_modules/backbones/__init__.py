"""Networks that read images, with or without a head."""
