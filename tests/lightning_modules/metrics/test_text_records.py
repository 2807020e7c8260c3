"""Records of texts as a tensor that processes can gather."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_modules.metrics.text_records import TextRecords


class Longest(TextRecords):
    """The length of the longest text."""

    def update(self, texts: list[str]) -> None:
        self.keep(texts)

    def compute(self) -> Tensor:
        return torch.tensor(max(map(len, self.kept()), default=0))


def test_records_come_back_as_they_were_kept_and_a_reset_drops_them() -> None:
    metric = Longest()
    records = ["größer\n“☃”", ["a", 1, None], {"x": 0.5}, ""]
    metric.keep(records[:1])
    metric.keep(records[1:])
    assert metric.kept() == records
    assert all(part.dtype == torch.uint8 for part in metric.texts)
    metric.reset()
    assert metric.kept() == []


@pytest.mark.parametrize("second", [["three words here"], []], ids=["both", "one without any"])
def test_states_of_two_processes_join_to_all_records(second: list[str]) -> None:
    """As torchmetrics joins them: by concatenation, for which a state without records must have the same type."""
    first, other = Longest(), Longest()
    first.update(["a", "größer"])
    if second:
        other.update(second)
    gathered = [torch.cat(metric.texts) for metric in (first, other)]
    first.texts = [torch.cat(gathered)]
    assert first.kept() == ["a", "größer", *second]
    assert first.compute() == max(len("größer"), *map(len, second), 0)
