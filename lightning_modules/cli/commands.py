"""The commands beside Lightning's: recipes, and what a trained checkpoint can do."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from lightning_modules.callbacks.attention_maps import draw_attention
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.classification.classifier import Classifier
from lightning_modules.cli.recipe_files import describe, find_recipe, recipe_names
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.averaging import average_checkpoints
from lightning_modules.system.system import System
from lightning_modules.text.text_generator import TextGenerator
from lightning_modules.translation.seq2seq import Seq2Seq


def recipes(options: argparse.Namespace) -> None:
    """Lists the recipes, or copies one to where it can be edited."""
    if options.name is None:
        table = Table("recipe", "what it trains", title="attention-blocks fit --config RECIPE")
        for name in recipe_names():
            table.add_row(name, describe(name))
        Console().print(table)
        return
    target = Path(f"{Path(options.name).stem}.yaml")
    if target.exists():
        raise ValueError(f"{target} exists already; move it away first")
    shutil.copyfile(find_recipe(options.name), target)
    print(f"wrote {target}: attention-blocks fit --config {target}")


def classify(options: argparse.Namespace) -> None:
    """Prints the likeliest classes of each image."""
    system = Classifier.load_from_checkpoint(options.checkpoint, map_location=options.device)
    for image, guesses in zip(options.images, system.classify(options.images, top=options.top), strict=True):
        print(image)
        for guess in guesses:
            print(f"  {guess.probability:7.2%}  {guess.label}")


def plot(options: argparse.Namespace) -> None:
    """Writes one PNG an image, or a sentence: what the attention looked at."""
    system = System.load_from_checkpoint(options.checkpoint, map_location=options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    written: set[Path] = set()
    for number, image in enumerate(options.images, start=1):
        # What is no file is a sentence to be translated; one too long for a file's name makes Path.is_file() raise.
        target = options.out / f"{Path(image).stem if os.path.isfile(image) else f'sentence-{number}'}.png"
        if target in written:  # images of one name from several folders
            target = target.with_stem(f"{target.stem}-{number}")
        written.add(target)
        draw_attention(system, [image]).savefig(target, dpi=150)
        print(f"wrote {target}")


def asked_for(options: argparse.Namespace, system: TextGenerator) -> DecodingStrategy:
    """How text is to be written: as the checkpoint says, with another beam where one was asked for."""
    if options.beam is None:
        return system.strategy
    known = system.strategy if isinstance(system.strategy, BeamSearch) else BeamSearch()
    return dataclasses.replace(known, size=options.beam)


def caption(options: argparse.Namespace) -> None:
    """Describes images, one line each: the file, a tab, the caption."""
    system = Captioner.load_from_checkpoint(options.checkpoint, map_location=options.device)
    strategy = asked_for(options, system)
    images = iter(options.images)
    while some := list(itertools.islice(images, max(1, options.batch_size))):
        for image, text in zip(some, system.caption(some, strategy, batch_size=options.batch_size), strict=True):
            told = {"image": image, "caption": text}
            print(json.dumps(told, ensure_ascii=False) if options.json else "\t".join(told.values()), flush=True)


def translate(options: argparse.Namespace) -> None:
    """Translates a file, or what comes in, line by line."""
    system = Seq2Seq.load_from_checkpoint(options.checkpoint, map_location=options.device)
    strategy = asked_for(options, system)
    if options.input is not None and not options.input.is_file():
        raise FileNotFoundError(f"--input: there is no file {str(options.input)!r}")
    lines = options.input.open(encoding="utf-8") if options.input else sys.stdin
    start, count, columns = time.perf_counter(), 0, (TextColumn("{task.description}"), MofNCompleteColumn())
    console = Console(stderr=True)
    with lines, Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sentences", total=None)
        while chunk := [line.rstrip("\n") for line in itertools.islice(lines, LINES_AT_A_TIME)]:
            print(*system.translate(chunk, strategy, batch_size=options.batch_size), sep="\n", flush=True)
            count += len(chunk)
            progress.update(task, completed=count)
    seconds = time.perf_counter() - start
    print(f"{count} sentences in {seconds:.1f} s, {count / seconds:.1f} a second", file=sys.stderr)


def export(options: argparse.Namespace) -> None:
    """Writes a checkpoint in another format, and runs what was written to see that it says the same."""
    from lightning_modules.cli.export import FORMATS  # its packages are many, and the other commands need none of them

    if options.format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {options.format!r}")
    system = System.load_from_checkpoint(options.checkpoint, map_location="cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"wrote {FORMATS[options.format](system, options.out)}, which says what the checkpoint says")


def average(options: argparse.Namespace) -> None:
    """Writes a checkpoint with the mean of the weights of several of one run."""
    if options.out.exists():
        raise ValueError(f"{options.out} exists already; name a new file first, then the checkpoints to average")
    torch.save(average_checkpoints(options.checkpoints), options.out)
    print(f"wrote {options.out}, the mean of {len(options.checkpoints)}")


COMMANDS = {
    "recipes": recipes,
    "classify": classify,
    "plot": plot,
    "caption": caption,
    "translate": translate,
    "average": average,
    "export": export,
}

# Sorted by length inside, written in order: more at a time is faster, fewer show something sooner.
LINES_AT_A_TIME = 1024


def here(device: str) -> torch.device:
    """A device that this machine has."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch built for CPUs alone
        raise argparse.ArgumentTypeError(f"this machine has no {device!r}; leave it out, or name cpu") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="attention-blocks")
    commands = parser.add_subparsers(required=True)
    adders = {}
    for name, run in COMMANDS.items():
        adders[name] = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        adders[name].set_defaults(run=run)
    adders["recipes"].set_defaults(name=None)
    copy = adders["recipes"].add_subparsers().add_parser("copy", help="copy a recipe into this folder, to be edited")
    copy.add_argument("name", metavar="NAME", help="the recipe's bare name")
    for name in ("classify", "caption", "plot", "translate", "export"):
        adders[name].add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a file that training wrote")
    for name in ("classify", "caption", "plot"):
        adders[name].add_argument(
            "images",
            nargs="+",
            metavar="IMAGE",
            help="image files of any size; for plot, of a system that translates, sentences",
        )
    adders["classify"].add_argument("--top", type=int, default=5, help="how many classes an image (5)")
    adders["translate"].add_argument("--input", type=Path, metavar="FILE", help="one sentence a line (standard input)")
    for name, things in (("caption", "images"), ("translate", "sentences")):
        adders[name].add_argument("--beam", type=int, help="how many hypotheses are kept (the checkpoint's)")
        adders[name].add_argument("--batch-size", type=int, default=64, help=f"how many {things} at once (64)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("classify", "plot", "caption", "translate"):
        adders[name].add_argument("--device", type=here, default=default, help="a GPU where there is one")
    adders["caption"].add_argument("--json", action="store_true", help="print a JSON object a line")
    adders["average"].add_argument("out", type=Path, metavar="OUT", help="the file to write")
    adders["average"].add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="the last one last")
    formats = "safetensors, torch-export, onnx or ctranslate2"
    adders["export"].add_argument("--format", required=True, help=formats)
    adders["export"].add_argument("--out", type=Path, default=Path("exported"), help="folder for it (exported)")
    adders["plot"].add_argument("--out", type=Path, default=Path("plots"), help="folder for the PNGs (plots)")
    return parser


def run_command(words: Sequence[str]) -> None:
    """Runs one of :data:`COMMANDS`; what the user got wrong is said in one line."""
    parser = _parser()
    options = parser.parse_args(words)
    try:
        options.run(options)
    except (ValueError, FileNotFoundError) as error:
        refuse(error)


def refuse(error: Exception) -> NoReturn:
    """Says what the user got wrong, without a traceback, and exits as argparse does."""
    print(f"attention-blocks: error: {error}", file=sys.stderr)
    sys.exit(2)
