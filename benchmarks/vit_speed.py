"""ViT: images per second over timm's model with the same weights, in inference and in training.

Tiny and small ViTs on images of 32 pixels in patches of 4 and of 224 pixels in patches of 16, float32 and bf16-mixed.
"""

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

# Model, image size, patch size, batch size.
CASES = [
    ("vit_tiny_patch16_224", 32, 4, 64),
    ("vit_small_patch16_224", 32, 4, 32),
    ("vit_tiny_patch16_224", 224, 16, 16),
    ("vit_small_patch16_224", 224, 16, 8),
]


def measure(quick: bool) -> Table:
    """Goal: at least 1.1, never below 1.0."""
    table = Table(
        "model", "pixels", "precision", "inference, ours over timm", "training, ours over timm", "max. difference"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, size, patch, batch in [(*CASES[0][:3], 4)] if quick else CASES:
        theirs = timm.create_model(name, img_size=size, patch_size=patch, num_classes=100).to(device)
        ours = network_like(theirs)(100, (size, size), 3).to(device)
        ours.load_state_dict(renamed_state(theirs))
        images = torch.randn(batch, 3, size, size, device=device)
        labels = torch.randint(100, (batch,), device=device)
        with torch.inference_mode():
            difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
        rounds = 3 if quick else 15
        models = {"timm": theirs, "ours": ours}
        for mixed in (False, True):
            inference = take_turns({key: make_inference(model, images, mixed) for key, model in models.items()}, rounds)
            training = take_turns(
                {key: make_training(model, images, labels, mixed) for key, model in models.items()}, rounds
            )
            table.add_row(
                name,
                f"{size}, patch {patch}",
                "bf16-mixed" if mixed else "float32",
                str(ratio(inference["timm"], inference["ours"])),
                str(ratio(training["timm"], training["ours"])),
                "" if mixed else f"{difference:.1e}",
            )
    return table


def make_inference(model: nn.Module, images: Tensor, mixed: bool) -> Callable[[], object]:
    """Returns a function that computes the logits of a batch."""

    def infer() -> None:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=mixed):
            model.eval()(images)

    return infer


def make_training(model: nn.Module, images: Tensor, labels: Tensor, mixed: bool) -> Callable[[], object]:
    """Returns a function that runs one training step with AdamW."""
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    except RuntimeError:  # torch 2.3 has no fused AdamW for CPUs
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    return training_step(lambda: F.cross_entropy(model.train()(images), labels), optimizer, mixed=mixed)
