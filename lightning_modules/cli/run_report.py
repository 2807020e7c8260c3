"""The end of a run: metrics, files, and the commands to run next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lightning import Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lightning_modules.captioning.captioner import Captioner
from lightning_modules.classification.classifier import Classifier
from lightning_modules.system.system import System
from lightning_modules.translation.seq2seq import Seq2Seq

# Files that callbacks and loggers leave in a run's folder.
_OUTPUTS = {
    "metrics": "metrics.csv",
    "loss curve": "loss_curve.png",
    "figures": "figures",
    "samples": "translations.md",
    "configuration": "config.yaml",
}


def print_metrics(metrics: Mapping[str, Tensor | float]) -> None:
    """Prints metrics as a table, without the values of single steps."""
    table = Table("metric")
    table.add_column("value", justify="right")
    for name in sorted(metrics):
        if not name.endswith("_step") and f"{name}_epoch" not in metrics:
            table.add_row(name.removesuffix("_epoch"), f"{float(metrics[name]):.4g}")
    if table.row_count:
        Console().print(table)


def print_fit_report(trainer: Trainer, system: System) -> None:
    """Prints the final metrics, where the checkpoints and other files are, and the next commands.

    To be called by every process; the first one prints.
    """
    found = outputs(trainer)
    if not trainer.is_global_zero:
        return
    print_metrics(trainer.callback_metrics)
    checkpoint = trainer.checkpoint_callback
    files = {
        "best checkpoint": getattr(checkpoint, "best_model_path", ""),
        "last checkpoint": getattr(checkpoint, "last_model_path", ""),
    }
    files = {name: shown(path) for name, path in files.items() if path}
    print_files({**files, **found})
    best = files.get("best checkpoint") or files.get("last checkpoint")
    if best:
        print("\nNext:")
        for command in next_commands(system, best, found.get("configuration")):
            print(f"  {command}")


def print_evaluation_report(trainer: Trainer, results: Sequence[Mapping[str, float]]) -> None:
    """Prints the metrics of each loader, and where the files are; to be called by every process."""
    found = outputs(trainer)
    if trainer.is_global_zero:
        for metrics in results:
            print_metrics(metrics)
        print_files(found)


def print_files(files: Mapping[str, str]) -> None:
    """Prints names and paths in two columns."""
    width = max(map(len, files), default=0)
    for name, path in files.items():
        print(f"{name:<{width}}  {path}")


def outputs(trainer: Trainer) -> dict[str, str]:
    """Paths of what a run left in its folder, by name; to be called by every process."""
    folder = Path(trainer.log_dir or trainer.default_root_dir)
    return {name: shown(folder / file) for name, file in _OUTPUTS.items() if (folder / file).exists()}


def next_commands(system: System, checkpoint: str, configuration: str | None) -> Iterator[str]:
    """The commands that a trained system is used with, ready to paste."""
    quoted = shlex.quote(checkpoint)
    if configuration is not None:
        yield f"attention-blocks test --config {shlex.quote(configuration)} --ckpt_path {quoted}"
    inputs = "IMAGE"
    if isinstance(system, Classifier):
        yield f"attention-blocks classify {quoted} IMAGE"
    elif isinstance(system, Captioner):
        yield f"attention-blocks caption {quoted} IMAGE"
    elif isinstance(system, Seq2Seq):
        yield f"attention-blocks translate {quoted} --input FILE"
        inputs = "SENTENCE"
    if callable(getattr(system, "plot", None)):
        yield f"attention-blocks plot {quoted} {inputs}"


def shown(path: str | Path) -> str:
    """A path relative to the working directory if it is below it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
