"""What a DataModule says about what it has loaded."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table


def summary_text(title: str, table: Table, notes: Sequence[str]) -> str:
    """A table as plain text, its title above it and the notes below.

    Example:
        >>> table = Table("split", "images")
        >>> table.add_row("train", "12")
        >>> print(summary_text("Dogs: 12 images", table, ["Skipped 1 file."]))
        Dogs: 12 images
        ┏━━━━━━━┳━━━━━━━━┓
        ┃ split ┃ images ┃
        ┡━━━━━━━╇━━━━━━━━┩
        │ train │ 12     │
        └───────┴────────┘
        Skipped 1 file.
    """
    text = StringIO()
    console = Console(file=text, width=100)
    console.print(title, highlight=False, markup=False)
    console.print(table)
    return "\n".join([*(line.rstrip() for line in text.getvalue().splitlines()), *notes])
