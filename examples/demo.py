"""Trains a small Vision Transformer on handwritten digits, tests it, and draws its attention maps.

Run it by ``make demo`` or ``python -m examples.demo``. It does in Python what these commands do::

    attention-blocks fit --config vit_digits
    attention-blocks test --config vit_digits --ckpt_path CHECKPOINT
    attention-blocks plot CHECKPOINT IMAGE... --out runs/vit_digits
"""

from __future__ import annotations

import time
from pathlib import Path

from lightning_modules import ViTClassifier
from lightning_modules.cli.lightning_cli import lightning_command
from lightning_modules.cli.recipe_files import find_recipe


def run() -> None:
    """Trains, tests, draws, and prints where the files are."""
    start = time.perf_counter()
    cli = lightning_command(["fit", "--config", str(find_recipe("vit_digits"))])
    minutes = (time.perf_counter() - start) / 60
    [scores] = cli.trainer.test(ckpt_path="best", datamodule=cli.datamodule, verbose=False)

    run_folder = Path(cli.trainer.log_dir or cli.trainer.default_root_dir)
    [checkpoint] = (run_folder / "checkpoints").glob("*.ckpt")
    model = ViTClassifier.load_from_checkpoint(checkpoint)
    images, _ = next(iter(cli.datamodule.test_dataloader()))
    model.plot(images[:6]).savefig(run_folder / "attention.png", dpi=150)

    print(f"test accuracy      {scores['test/accuracy']:.2%} after {minutes:.1f} minutes of training")
    print(f"checkpoint         {checkpoint}")
    print(f"attention overlay  {run_folder / 'attention.png'}")
    print(f"loss curve         {run_folder / 'loss_curve.png'}")


if __name__ == "__main__":
    run()
