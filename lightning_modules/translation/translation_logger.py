"""Logging of sample translations during validation."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from datamodules.text.text_batch import TextBatch
from lightning_modules.plots.figures import log_text
from lightning_modules.translation.seq2seq import Seq2Seq


class TranslationLogger(Callback):
    """Logs translations of a few validation sentences after each epoch, next to the references.

    TensorBoard shows them as text; for other loggers they are appended to ``translations.md`` in the log folder.

    Args:
        num_sentences: number of sentences, taken from the first validation batch.

    Raises:
        ValueError: ``num_sentences`` below 1.
    """

    def __init__(self, num_sentences: int = 5) -> None:
        if num_sentences < 1:
            raise ValueError(f"num_sentences must be 1 or more, got {num_sentences}")
        self.num_sentences = num_sentences

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: TextBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Logs the translations of the first sentences of the first batch."""
        if batch_idx or trainer.sanity_checking:
            return
        if not isinstance(pl_module, Seq2Seq):
            raise ValueError(f"TranslationLogger needs a system that translates, got {type(pl_module).__name__}")
        sources = batch.source_texts[: self.num_sentences]
        lines = zip(sources, batch.target_texts, pl_module.translate(sources), strict=False)
        text = "\n\n".join(f"- source: {s}\n- reference: {r}\n- translation: {t}" for s, r, t in lines)
        log_text(trainer, "translations", text)
