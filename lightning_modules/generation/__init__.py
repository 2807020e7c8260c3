"""One engine that generates token sequences for every system."""
