"""The RNN captioner by itself; behaviour common to all captioners is tested in test_captioner.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest
from torch import Tensor

from attention_blocks import Attention
from datamodules import CaptionBatch
from tests.lightning_modules.conftest import CAPTION_RNN

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


def test_it_takes_any_attention(
    attention: Callable[[int, int], Attention], make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system, some = make_captioner(network=partial(CAPTION_RNN, attention=attention)), caption_batch
    loss = system.training_step(some, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert len(system.caption(cast(Tensor, some.images))) == 3
