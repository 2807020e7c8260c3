"""``python -m benchmarks.fine_tuning PHOTOS WEIGHTS``: accuracy of a pretrained CNN by inserted attention block.

Compares EfficientNet-Lite0 without attention and with each block after every stage (eased in with ``EaseIn``),
fine-tuned with the hyperparameters of the recipe efficientnet_image_folder. PHOTOS is a folder or zip with the folders
``train`` and ``test``, each with one folder per class; WEIGHTS is timm's weight file of EfficientNet-Lite0.

Each run is saved to ``--out`` when it ends and is not repeated. Prints a Markdown table: accuracy of the last weights
and its difference from the network without attention, paired by seed, with 95 % confidence intervals.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from attention_blocks import CBAM, EaseIn, EfficientChannelAttention, GlobalContext, SqueezeExcite
from benchmarks.attention_accuracy import fit_and_test, paired, run_missing
from datamodules import HeldOut, ImageFolderDataModule
from lightning_modules import ConvClassifier, FreezeBackbone, TimmNetwork, WarmupCosine

BLOCKS: Mapping[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "SqueezeExcite": partial(SqueezeExcite, reduction=8),
    "EfficientChannelAttention": EfficientChannelAttention,
    "CBAM": partial(CBAM, reduction=8),
    "GlobalContext": partial(GlobalContext, reduction=8),
}


def system(name: str, data: ImageFolderDataModule, weights: Path) -> ConvClassifier:
    """Classifier with pretrained weights and one of BLOCKS; all have the same hyperparameters."""
    block = BLOCKS[name]
    return ConvClassifier(
        data.num_classes,
        data.transform,
        partial(TimmNetwork, name="tf_efficientnet_lite0.in1k", pretrained=str(weights)),
        None if block is None else partial(EaseIn, block=block),
        label_smoothing=0.1,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.01),
        lr_scheduler=partial(WarmupCosine, warmup=0.1),
        layer_decay=0.1,
    )


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fine_tuning", description=__doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS), metavar="BLOCK")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file of the runs (default: fine_tuning_PHOTOS.json)")
    options = parser.parse_args()
    out = options.out or Path(f"fine_tuning_{options.photos.stem}.json")
    data = ImageFolderDataModule(
        options.photos,
        options.image_size,
        batch_size=32,
        in_memory=True,
        held_out=HeldOut(test=0.2),
        num_workers=options.num_workers,
    )

    def run(name: str, seed: int) -> dict[str, float]:
        make = partial(system, name, data, options.weights)
        return fit_and_test(make, data, seed, options.epochs, [FreezeBackbone(epochs=1)])

    done = run_missing(out, options.blocks, options.seeds, run)
    print("| block | accuracy, % | difference from none |\n| --- | --- | --- |")
    for name in done:
        print(f"| {' | '.join([name, *paired(done, name)])} |")


if __name__ == "__main__":
    main()
