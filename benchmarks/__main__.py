"""``python -m benchmarks [SUBJECT ...] [--quick]``: measures and prints tables."""

from __future__ import annotations

import argparse
import importlib
import inspect
import platform
import subprocess

import torch
from rich.console import Console

SUBJECTS = (
    "vit_speed",
    "multi_head_speed",
    "feature_map_speed",
    "seq2seq_speed",
    "rnn_speed",
    "decode_speed",
    "caption_speed",
    "feature_cache_speed",
    "loader_speed",
    "start_up",
)


def main() -> None:
    """Runs the subjects asked for, all when none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; without any, all")
    parser.add_argument("--quick", action="store_true", help="the smallest case, few rounds: does it run?")
    options = parser.parse_args()
    unknown = set(options.subjects) - set(SUBJECTS)
    if unknown:
        parser.error(f"no subject {', '.join(sorted(unknown))}; choose from {', '.join(SUBJECTS)}")
    console = Console(width=140)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    console.print(f"torch {torch.__version__}, {device}, {platform.machine()}, commit {commit.strip() or 'unknown'}")
    for subject in options.subjects or SUBJECTS:
        module = importlib.import_module(f"benchmarks.{subject}")
        torch.manual_seed(0)
        console.print(f"\n[bold]{subject}[/bold]: {inspect.getdoc(module)} {inspect.getdoc(module.measure)}")
        console.print("Ratios: median of the rounds (lower to upper quartile).")
        console.print(module.measure(options.quick))


if __name__ == "__main__":
    main()
