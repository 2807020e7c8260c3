"""Translation: networks below, systems on top."""
