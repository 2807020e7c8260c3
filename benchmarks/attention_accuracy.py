"""``python -m benchmarks.attention_accuracy fashion_mnist|PHOTOS``: accuracy of a small CNN by attention block.

Compares a small ResNet (widths 16, 32 and 64) without attention and with each feature-map attention block, trained with
the same hyperparameters, seeds and batches. PHOTOS is a folder or zip with the folders ``train`` and ``test``, each
with one folder per class.

Each run is saved to ``--out`` when it ends and is not repeated, so that training can be interrupted. Prints a Markdown
table: accuracy and its difference from the network without attention, paired by seed, with 95 % confidence intervals;
images per second and their ratio to the network without attention.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from scipy import stats
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attention_blocks import (
    BAM,
    CBAM,
    CoordinateAttention,
    EfficientChannelAttention,
    GlobalContext,
    SelectiveKernel,
    SelfAttention2d,
    SimAM,
    SqueezeExcite,
)
from benchmarks.timing import ratio, take_turns
from datamodules import HeldOut, ImageFolderDataModule, ImageTransform, TorchvisionDataModule
from datamodules.images.classification import ClassificationDataModule
from lightning_modules import ConvClassifier, SmallResNet, WarmupCosine


class SelectiveResNet(SmallResNet):
    """SmallResNet with selective kernels as the second convolution of each block, as in Li et al. 2019."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                width = block.conv2.out_channels
                # Each branch gets half of the channels, so that parameters and multiply-adds stay about the same.
                block.conv2 = SelectiveKernel(width, groups=1, split_input=True, min_hidden=8)


# Accuracy and minutes, by block and seed.
Runs = dict[str, dict[str, dict[str, float]]]
Network = Callable[..., SmallResNet]
BLOCKS: Mapping[str, tuple[Network, Callable[[int], nn.Module] | None]] = {
    "none": (SmallResNet, None),
    "SqueezeExcite": (SmallResNet, partial(SqueezeExcite, reduction=8)),
    "EfficientChannelAttention": (SmallResNet, EfficientChannelAttention),
    "CBAM": (SmallResNet, partial(CBAM, reduction=8)),
    "SelectiveKernel": (SelectiveResNet, None),
    "GlobalContext": (SmallResNet, partial(GlobalContext, reduction=8)),
    "CoordinateAttention": (SmallResNet, CoordinateAttention),
    "BAM": (SmallResNet, partial(BAM, reduction=8)),
    "SimAM": (SmallResNet, SimAM),
    "SelfAttention2d": (SmallResNet, SelfAttention2d),
}


def system(name: str, num_classes: int, transform: ImageTransform, stem_stride: int) -> ConvClassifier:
    """Classifier with one of BLOCKS; all have the same hyperparameters."""
    network, attention = BLOCKS[name]
    return ConvClassifier(
        num_classes,
        transform,
        partial(network, widths=(16, 32, 64), depth=1, stem_stride=stem_stride),
        attention,  # type: ignore[arg-type]
        label_smoothing=0.1,
        optimizer=partial(torch.optim.AdamW, lr=4e-3, weight_decay=0.05),
        lr_scheduler=partial(WarmupCosine, warmup=0.1),
    )


def fit_and_test(
    make: Callable[[], LightningModule],
    data: ClassificationDataModule,
    seed: int,
    epochs: int,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Trains with one seed and tests the last weights; returns accuracy in % and minutes of training."""
    seed_everything(seed)
    model = make()
    trainer = Trainer(
        callbacks=list(callbacks),
        max_epochs=epochs,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    start = time.perf_counter()
    trainer.fit(model, data)
    minutes = (time.perf_counter() - start) / 60
    [metrics] = trainer.test(model, data, verbose=False)
    return {"accuracy": 100 * metrics["test/accuracy"], "minutes": minutes}


def run_missing(
    out: Path, names: Sequence[str], seeds: Sequence[int], run: Callable[[str, int], dict[str, float]]
) -> Runs:
    """Runs each name and seed that is missing in the file ``out`` and adds it there; returns all runs."""
    done: Runs = json.loads(out.read_text()) if out.is_file() else {}
    for seed in seeds:
        for name in names:
            if str(seed) not in done.get(name, {}):
                done.setdefault(name, {})[str(seed)] = run(name, seed)
                out.write_text(json.dumps(done, indent=1))
                print(name, seed, done[name][str(seed)], flush=True)
    return done


def paired(done: Runs, name: str) -> tuple[str, str]:
    """Accuracy of a block, and its difference from the accuracy without attention, paired by seed."""
    scores = {seed: each["accuracy"] for seed, each in done[name].items()}
    plain = {seed: each["accuracy"] for seed, each in done.get("none", {}).items()}
    pairs = [scores[seed] - plain[seed] for seed in scores if seed in plain and name != "none"]
    return interval(list(scores.values())), interval(pairs) if pairs else ""


def interval(values: Sequence[float]) -> str:
    """Mean and half-width of the 95 % confidence interval (Student's t)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def speeds(data: ClassificationDataModule, stem_stride: int, rounds: int) -> dict[str, tuple[str, str]]:
    """Images per second and their ratio to the network without attention, in training and in inference."""
    images = torch.randn(64, data.transform.channels, *data.transform.image_size)
    models = {name: system(name, data.num_classes, data.transform, stem_stride).network for name in BLOCKS}

    def train(model: nn.Module) -> None:
        torch.autograd.backward([model.train()(images).square().sum()])

    def infer(model: nn.Module) -> None:
        with torch.inference_mode():
            model.eval()(images)

    training = take_turns({name: partial(train, model) for name, model in models.items()}, rounds)
    inference = take_turns({name: partial(infer, model) for name, model in models.items()}, rounds)

    def rate_and_ratio(seconds: Mapping[str, list[float]], name: str) -> str:
        rate = len(images) / statistics.median(seconds[name])
        return f"{rate:,.0f} ({ratio(seconds['none'], seconds[name]).median:.2f})"

    return {name: (rate_and_ratio(training, name), rate_and_ratio(inference, name)) for name in BLOCKS}


def table(done: Runs, data: ClassificationDataModule, stem_stride: int) -> str:
    """Markdown table of the finished runs."""
    ratios = speeds(data, stem_stride, rounds=20)
    columns = ["block", "parameters", "multiply-adds, M", "accuracy, %", "difference from none"]
    columns += ["training, images/s (over none)", "inference, images/s (over none)"]
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for name in (name for name in BLOCKS if name in done):
        network = system(name, data.num_classes, data.transform, stem_stride).network.eval()
        # The explicit path: FlopCounterMode does not count the fused attention kernel of CPUs.
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            network(torch.randn(1, data.transform.channels, *data.transform.image_size))
        parameters = sum(p.numel() for p in network.parameters())
        cells = [name, f"{parameters:,}", f"{counter.get_total_flops() / 2e6:.2f}", *paired(done, name)]
        lines.append(f"| {' | '.join([*cells, *ratios[name]])} |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_accuracy", description=__doc__)
    parser.add_argument("data", help="fashion_mnist, or a folder or zip of photos")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--blocks", nargs="+", choices=BLOCKS, default=list(BLOCKS), metavar="BLOCK")
    parser.add_argument("--image-size", type=int, default=128, help="height and width of photos (default: 128)")
    parser.add_argument("--stem-stride", type=int, default=2, help="stride of the first convolution (default: 2)")
    parser.add_argument("--out", type=Path, help="file of the runs (default: attention_accuracy_DATA.json)")
    options = parser.parse_args()
    out = options.out or Path(f"attention_accuracy_{Path(options.data).stem}.json")
    data: ClassificationDataModule
    if options.data == "fashion_mnist":
        data = TorchvisionDataModule("FashionMNIST", batch_size=64, held_out=HeldOut(test=0.2))
    else:
        held_out = HeldOut(test=0.2)
        data = ImageFolderDataModule(options.data, options.image_size, 32, in_memory=True, held_out=held_out)

    def run(name: str, seed: int) -> dict[str, float]:
        make = partial(system, name, data.num_classes, data.transform, options.stem_stride)
        return fit_and_test(make, data, seed, options.epochs)

    print(table(run_missing(out, options.blocks, options.seeds, run), data, options.stem_stride))


if __name__ == "__main__":
    main()
