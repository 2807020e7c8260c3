"""ViT: images a second over timm's same model with the same weights, in training steps and in inference."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from benchmarks.timing import ratio, take_turns
from benchmarks.training import training_step
from lightning_modules.backbones.timm_weights import network_like, renamed_state

# Model, side of the image, side of a patch, images a batch.
CASES = [
    ("vit_tiny_patch16_224", 32, 4, 64),
    ("vit_small_patch16_224", 32, 4, 32),
    ("vit_tiny_patch16_224", 224, 16, 16),
    ("vit_small_patch16_224", 224, 16, 8),
]


def measure(quick: bool) -> Table:
    """Goal: 1.1 or more, never under 1.0."""
    table = Table("model", "pixels", "precision", "inference, ours over timm", "training, ours over timm", "difference")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, side, patch, batch in [(*CASES[0][:3], 4)] if quick else CASES:
        theirs = timm.create_model(name, img_size=side, patch_size=patch, num_classes=100).to(device)
        ours = network_like(theirs)(100, (side, side), 3).to(device)
        ours.load_state_dict(renamed_state(theirs))
        images = torch.randn(batch, 3, side, side, device=device)
        labels = torch.randint(100, (batch,), device=device)
        with torch.inference_mode():
            difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
        rounds = 3 if quick else 15
        models = {"timm": theirs, "ours": ours}
        for mixed in (False, True):
            inference = take_turns({each: inferer(models[each], images, mixed) for each in models}, rounds)
            training = take_turns({each: trainer(models[each], images, labels, mixed) for each in models}, rounds)
            table.add_row(
                name,
                f"{side}, patch {patch}",
                "bf16-mixed" if mixed else "float32",
                str(ratio(inference["timm"], inference["ours"])),
                str(ratio(training["timm"], training["ours"])),
                "" if mixed else f"{difference:.1e}",
            )
    return table


def inferer(model: nn.Module, images: Tensor, mixed: bool) -> Callable[[], object]:
    """Logits of a batch."""

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
            model.eval()(images)

    return infer


def trainer(model: nn.Module, images: Tensor, labels: Tensor, mixed: bool) -> Callable[[], object]:
    """Forward, backward and an optimiser step."""
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    except RuntimeError:  # torch 2.3 has no fused step for CPUs
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    return training_step(lambda: F.cross_entropy(model.train()(images), labels), optimizer, mixed=mixed)
