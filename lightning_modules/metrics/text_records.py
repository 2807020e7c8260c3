"""Base of the metrics that need all texts at once, gathered from all processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class TextRecords(Metric):
    """Base of the metrics that keep records, as JSON in a tensor of bytes, and gather them from all processes."""

    higher_is_better = True
    full_state_update = False
    texts: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("texts", [], dist_reduce_fx="cat")
        self.keep([])

    def reset(self) -> None:
        """Drops all records."""
        super().reset()
        # From a process without any, torchmetrics would gather an empty float tensor next to the bytes of the others.
        self.keep([])

    def keep(self, records: Iterable[object]) -> None:
        """Adds records that JSON can represent."""
        lines = "".join(f"{json.dumps(record)}\n" for record in records)
        self.texts.append(torch.tensor(bytearray(lines, "ascii"), dtype=torch.uint8, device=self.device))

    def kept(self) -> list[Any]:
        """All records; once the metric is synchronised, those of all processes."""
        return [json.loads(line) for line in bytes(dim_zero_cat(self.texts).tolist()).splitlines()]
