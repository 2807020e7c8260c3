"""Doubly stochastic attention against the paper's formula."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import Tensor

from datamodules import CaptionBatch
from lightning_modules import DoublyStochastic, RNNTextDecoder

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner, MakeTranslator

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


def test_the_doubly_stochastic_term_is_its_papers_formula(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    plain, more = make_captioner(), make_captioner(objective=DoublyStochastic(weight=0.75))
    more.load_state_dict(plain.state_dict())
    plain.eval()
    more.eval()
    some, decoder = caption_batch, plain.decoder
    wanted = 0.0
    for row, length in enumerate(some.caption_lengths.tolist()):
        memory = plain.network.encode(plain.network.backbone(cast(Tensor, some.images)[row : row + 1]))
        state = decoder.start(memory)
        seen = torch.zeros(memory.sequence.size(1))
        for word in some.captions[row, : length - 1].tolist():
            _, state, weights = decoder.step(torch.tensor([[word]]), state, need_weights=True)
            seen += cast(Tensor, weights)[0, 0]
        wanted += 0.75 * float(((1 - seen) ** 2).sum().detach())
    tokens = int((some.caption_lengths - 1).sum())
    added = more.training_step(some, 0) - plain.training_step(some, 0)
    torch.testing.assert_close(added.detach(), torch.tensor(wanted / tokens))


def test_the_doubly_stochastic_term_evens_out_the_attention(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system = make_captioner(objective=DoublyStochastic(weight=10.0))

    def spread() -> float:
        _, weights = cast(RNNTextDecoder, system.decoder).unroll(
            caption_batch.captions[1:2],
            system.encode(caption_batch._replace(images=cast(Tensor, caption_batch.images)[1:2])),
            need_weights=True,
        )
        return float(cast(Tensor, weights).sum(1).var().detach())

    with torch.no_grad():
        for parameter in cast(RNNTextDecoder, system.decoder).parameters():
            parameter.mul_(4.0)
    before = spread()
    optimizer = torch.optim.Adam(system.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        system.training_step(caption_batch, 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert spread() < before / 2


@pytest.mark.parametrize("kind", ["show-and-tell", "transformer"])
def test_it_trains_only_an_rnn_with_attention(kind: str, make_captioner: MakeCaptioner) -> None:
    with pytest.raises(ValueError, match=r"objective=DoublyStochastic.*Decoder"):
        make_captioner(kind, objective=DoublyStochastic())


def test_it_trains_translators_too(make_translator: MakeTranslator) -> None:
    assert make_translator("bahdanau", objective=DoublyStochastic()).objective == DoublyStochastic()


def test_values_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing .* got 1.0"):
        DoublyStochastic(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"weight .* got -1.0"):
        DoublyStochastic(weight=-1.0)
