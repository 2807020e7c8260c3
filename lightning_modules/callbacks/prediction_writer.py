"""Predictions in a file, in the order of the data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lightning_modules.system.system import System


class PredictionWriter(BasePredictionWriter):
    """Writes the predictions of a system to one file, in the order of the data set, from one process or several.

    Each row is a record of :meth:`System.prediction_records`. A file whose name ends in ``.jsonl`` gets one JSON object
    per row, any other file the first value of each record, one per line. The number of a row is that of the batch's
    field ``indices``, or else that of the loader's batch sampler.

    Args:
        out: the file; if omitted, ``predictions.jsonl`` in the trainer's log folder.

    Attributes:
        path: the file, once it is written.

    Raises:
        ValueError: when predicting, the module is not a :class:`System`; or there are several processes, and the
            batches do not say which rows they hold.

    Example:
        >>> PredictionWriter("translations.txt").out
        PosixPath('translations.txt')
    """

    def __init__(self, out: str | Path | None = None) -> None:
        super().__init__(write_interval="batch")
        self.out = None if out is None else Path(out)
        self.path: Path | None = None
        self._rows: dict[tuple[int, int], Mapping[str, object]] = {}

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets the rows of an earlier call."""
        self._rows = {}

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,  # noqa: ANN401
        batch_indices: Sequence[int] | None,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keeps the records of a batch."""
        if not isinstance(pl_module, System):
            raise ValueError(f"PredictionWriter needs a System, got {type(pl_module).__name__}")
        records = pl_module.prediction_records(batch, prediction)
        indices = getattr(batch, "indices", None) or batch_indices
        if not indices:
            if trainer.world_size > 1:
                raise ValueError(
                    "the batches do not say which rows of the data set they hold, so predictions of several processes "
                    "cannot be ordered; use one device, or batches with a field 'indices'"
                )
            indices = range(len(self._rows), len(self._rows) + len(records))
        for index, record in zip(indices, records, strict=True):
            self._rows[dataloader_idx, index] = record

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collects the rows of all processes, and writes the file in the first one."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # every process takes part in asking
        parts: list[Any] = [self._rows]
        if trainer.world_size > 1:
            parts = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, self._rows)
        if not trainer.is_global_zero:
            return
        rows: dict[tuple[int, int], Mapping[str, object]] = {}
        for part in parts:
            rows |= part
        path = self.out or folder / "predictions.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for key in sorted(rows):
                file.write(f"{_line(rows[key], as_json=path.suffix == '.jsonl')}\n")
        self.path = path


def _line(record: Mapping[str, object], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(record, ensure_ascii=False)
    return str(next(iter(record.values()))).replace("\n", " ")
