"""Networks and systems that generate text, and their objectives."""
