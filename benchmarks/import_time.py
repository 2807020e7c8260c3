"""Import time of attention_blocks over that of torch alone, each in processes of its own."""

from __future__ import annotations

import subprocess
import sys

from rich.table import Table

from benchmarks.timing import ratio, take_turns


def measure(quick: bool) -> Table:
    """Goal: at most 1.05."""

    def importer(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    candidates = {name: lambda name=name: importer(name) for name in ("torch", "attention_blocks")}
    seconds = take_turns(candidates, 3 if quick else 20)
    table = Table("import", "over import torch")
    table.add_row("attention_blocks", str(ratio(seconds["attention_blocks"], seconds["torch"])))
    return table
