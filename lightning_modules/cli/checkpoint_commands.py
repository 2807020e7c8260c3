"""Commands that use a trained checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path

import torch
from jsonargparse import Namespace
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from lightning_modules.callbacks.attention_maps import draw_attention
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.classification.classifier import Classifier
from lightning_modules.cli.devices import find_device
from lightning_modules.generation.beam_search import BeamSearch
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.system.averaging import average_checkpoints
from lightning_modules.system.system import System
from lightning_modules.text.text_generator import TextGenerator
from lightning_modules.translation.seq2seq import Seq2Seq

# Sorted by length inside and printed in order: more lines at a time are faster, fewer show something sooner.
LINES_AT_A_TIME = 1024


def classify(options: Namespace) -> None:
    """Prints the most probable classes of each image."""
    system = Classifier.load_from_checkpoint(options.checkpoint, map_location=find_device(options.device))
    for image, guesses in zip(options.images, system.classify(options.images, top=options.top), strict=True):
        print(image)
        for guess in guesses:
            print(f"  {guess.probability:7.2%}  {guess.label}")


def caption(options: Namespace) -> None:
    """Prints a caption per image: the file, a tab, the caption."""
    system = Captioner.load_from_checkpoint(options.checkpoint, map_location=find_device(options.device))
    strategy = chosen_strategy(options.beam, system)
    images = iter(options.images)
    while batch := list(itertools.islice(images, max(1, options.batch_size))):
        for image, text in zip(batch, system.caption(batch, strategy, batch_size=options.batch_size), strict=True):
            record = {"image": image, "caption": text}
            print(json.dumps(record, ensure_ascii=False) if options.json else "\t".join(record.values()), flush=True)


def translate(options: Namespace) -> None:
    """Translates a file or standard input, line by line."""
    system = Seq2Seq.load_from_checkpoint(options.checkpoint, map_location=find_device(options.device))
    strategy = chosen_strategy(options.beam, system)
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
    print(f"{count} sentences in {seconds:.1f} s, {count / seconds:.1f} per second", file=sys.stderr)


def plot(options: Namespace) -> None:
    """Draws the attention maps of each image or sentence into a PNG file."""
    system = System.load_from_checkpoint(options.checkpoint, map_location=find_device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    written: set[Path] = set()
    for number, text in enumerate(options.inputs, start=1):
        # Anything that is not a file is a sentence; os.path, since Path.is_file() raises for a very long one.
        target = options.out / f"{Path(text).stem if os.path.isfile(text) else f'sentence-{number}'}.png"
        if target in written:  # images of one name from several folders
            target = target.with_stem(f"{target.stem}-{number}")
        written.add(target)
        draw_attention(system, [text]).savefig(target, dpi=150)
        print(f"wrote {target}")


def export(options: Namespace) -> None:
    """Exports a checkpoint to another format, and verifies the exported files against the checkpoint."""
    from lightning_modules.cli.export import FORMATS  # torch.export, which the other commands do not need

    if options.format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {options.format!r}")
    system = System.load_from_checkpoint(options.checkpoint, map_location="cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"wrote {FORMATS[options.format](system, options.out)} (verified against the checkpoint)")


def average(options: Namespace) -> None:
    """Writes a checkpoint with the mean of the weights of several checkpoints of one run."""
    if options.out.exists():
        raise ValueError(f"{options.out} exists already; name a new file first, then the checkpoints to average")
    torch.save(average_checkpoints(options.checkpoints), options.out)
    print(f"wrote {options.out}, the mean of {len(options.checkpoints)} checkpoints")


def chosen_strategy(beam: int | None, system: TextGenerator) -> DecodingStrategy:
    """The checkpoint's own decoding strategy, with another beam size if one is given."""
    if beam is None:
        return system.strategy
    known = system.strategy if isinstance(system.strategy, BeamSearch) else BeamSearch()
    return dataclasses.replace(known, size=beam)
