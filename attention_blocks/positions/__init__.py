"""positions."""

__all__: list[str] = []
