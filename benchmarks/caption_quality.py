"""``python -m benchmarks.caption_quality ROOT CHECKPOINT...``: what captioners write for a set's test images, by beam.

ROOT is the folder of images with captions.csv. Prints a table in Markdown, each checkpoint with its parameters, the
backbone's aside, and the captions a second that it writes (on a CPU with one thread), its features computed before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from datamodules import CaptionFolderDataModule, CaptionTable
from datamodules.captions.caption_batch import CaptionDataset
from lightning_modules import BeamSearch, Captioner

COLUMNS = ("bleu1", "bleu4", "cider_d", "rouge_l", "meteor", "distinct2", "words_used")


class Written(NamedTuple):
    """What one captioner wrote.

    Attributes:
        texts: a caption an image.
        seconds: that it took, without the backbone's share.
    """

    texts: list[str]
    seconds: float


def write(system: Captioner, dataset: CaptionDataset, beam: int) -> Written:
    """Describes all images, 64 at a time."""
    texts: list[str] = []
    start = time.perf_counter()
    with torch.inference_mode():
        for numbers in torch.split(torch.arange(len(dataset)), 64):
            batch = system.transfer_batch_to_device(dataset[numbers.tolist()], system.device, 0)
            texts += system.texts(system.write(batch, BeamSearch(size=beam)))
    return Written(texts, time.perf_counter() - start)


def row(name: str, system: Captioner, dataset: CaptionDataset, beams: Sequence[int]) -> list[str]:
    """The lines of a captioner in the table, one a beam."""
    system.eval()
    with torch.inference_mode():
        features = [system.network.backbone(images.to(system.device)).cpu() for images in dataset.image_batches(64)]
    dataset = dataset.with_features(torch.cat(features))
    own = sum(p.numel() for p in system.network.parameters())
    own -= sum(p.numel() for p in system.network.backbone.parameters())
    lines = []
    for beam in beams:
        written = write(system, dataset, beam)
        metrics = system.text_metrics()
        for metric in metrics.values():
            metric.update(written.texts, dataset.captions)
        scores = [f"{float(metrics[column].compute()):.1f}" for column in COLUMNS]
        speed = f"{len(dataset) / written.seconds:.0f}"
        lines.append(f"| {' | '.join([name, f'{own / 1e6:.2f}', str(beam), *scores, speed])} |")
        name = ""
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caption_quality", description=__doc__)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder of images with captions.csv")
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--device", default="cpu", help="where they write (cpu)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["captioner", "parameters, M", "beam", *COLUMNS, "captions/s"]
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for path in options.checkpoints:
        system = Captioner.load_from_checkpoint(path, map_location=options.device)
        captions = CaptionTable("captions.csv")
        data = CaptionFolderDataModule(captions, options.root, transform=system.transform, num_workers=0)
        name = next((part.name for part in path.resolve().parents if part.name.startswith("captioner")), path.stem)
        print(*row(name, system, data.dataset(options.split), options.beams), sep="\n", flush=True)


if __name__ == "__main__":
    main()
