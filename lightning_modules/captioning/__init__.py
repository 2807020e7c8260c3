"""Image captioning: networks below, systems on top."""
