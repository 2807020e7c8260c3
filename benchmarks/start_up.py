"""Start-up times of the library and of the command line, over those of torch and Lightning, each in its own process."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from rich.table import Table

from benchmarks.timing import ratio, take_turns

CANDIDATES = {
    'python -c "import torch"': ("-c", "import torch"),
    'python -c "import lightning"': ("-c", "import lightning"),
    'python -c "import attention_blocks"': ("-c", "import attention_blocks"),
    'python -c "import lightning_modules"': ("-c", "import lightning_modules"),
} | {
    f"attention-blocks {words}": ("-m", "lightning_modules", *words.split())
    for words in ("--help", "recipes", "--version", "fti", "translate --help", "fit --help")
}


def measure(quick: bool) -> Table:
    """Goal: attention_blocks at most 1.05 of torch, a few hundredths for commands that run no network."""
    torch, lightning, *others = CANDIDATES
    rounds = take_turns({name: partial(_run, words) for name, words in CANDIDATES.items()}, 2 if quick else 10)
    table = Table("command", "over import torch", "over import lightning", "seconds")
    for name in (torch, lightning, *others):
        table.add_row(
            name,
            str(ratio(rounds[name], rounds[torch])),
            str(ratio(rounds[name], rounds[lightning])),
            f"{min(rounds[name]):.2f}",
        )
    return table


def _run(words: tuple[str, ...]) -> None:
    # "fti" is a mistyped command, which ends with status 2.
    subprocess.run([sys.executable, *words], capture_output=True, check="fti" not in words)
