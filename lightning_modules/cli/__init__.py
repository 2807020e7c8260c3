"""The ``attention-blocks`` command."""
