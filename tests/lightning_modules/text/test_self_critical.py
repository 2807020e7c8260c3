"""What captioners are trained for, against the papers' formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
import torch
from torch import Tensor

from datamodules import CaptionBatch
from lightning_modules import BeamSearch, CaptionObjective, Likelihood, RNNSizes, Sampling, SelfCritical
from lightning_modules.metrics.cider import DocumentFrequencies, cider_d
from lightning_modules.text.rnn_text_decoder import RNNTextDecoder
from lightning_modules.text.self_critical import words_and_end

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


def test_the_doubly_stochastic_term_is_its_papers_formula(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    plain, more = make_captioner(), make_captioner(objective=Likelihood(doubly_stochastic=0.75))
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


def test_the_doubly_stochastic_term_evens_out_what_was_looked_at(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch
) -> None:
    system = make_captioner(objective=Likelihood(doubly_stochastic=10.0))

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
def test_a_doubly_stochastic_term_is_for_an_rnn_with_attention(kind: str, make_captioner: MakeCaptioner) -> None:
    with pytest.raises(ValueError, match=r"doubly_stochastic=1.0 is for an RNN with attention, and \w+Decoder is none"):
        make_captioner(kind, objective=Likelihood(doubly_stochastic=1.0))


def test_values_out_of_their_range_are_named() -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must lie in \[0, 1\), got 1.0"):
        Likelihood(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"doubly_stochastic must be 0 \(off\) or more, got -1.0"):
        Likelihood(doubly_stochastic=-1.0)


# Self-critical training.


@pytest.fixture
def frequencies(caption_batch: CaptionBatch) -> DocumentFrequencies:
    return DocumentFrequencies.of(caption_batch.references, words_and_end)


@pytest.mark.parametrize("baseline", ["others", "greedy"])
def test_the_self_critical_loss_is_its_papers_formula(
    baseline: Literal["others", "greedy"],
    every_captioner: str,
    make_captioner: MakeCaptioner,
    caption_batch: CaptionBatch,
    frequencies: DocumentFrequencies,
) -> None:
    """Each drawn caption by itself: its reward less that of others, times the sum of its words' surprise."""
    system = make_captioner(every_captioner, objective=SelfCritical(4, baseline), max_length=6).eval()
    system.__dict__["training_frequencies"] = frequencies
    torch.manual_seed(5)
    found = system.write(caption_batch, Sampling(), n_best=4)
    greedy = system.write(caption_batch, BeamSearch(size=1))
    total, words = 0.0, 0
    for row, several in enumerate(found):

        def reward(tokens: list[int], row: int = row) -> float:
            text = system.target_tokenizer.decode([tokens])
            return cider_d(text, [caption_batch.references[row]], frequencies, words_and_end)[0]

        for number, one in enumerate(several):
            given = torch.tensor([[system.target_tokenizer.bos_id, *one.tokens]])
            logits = system(cast(Tensor, caption_batch.images)[row : row + 1], given[:, :-1])[0]
            # What is never written has no chance.
            logits[:, [getattr(system.target_tokenizer, name) for name in ("pad_id", "bos_id", "unk_id")]] = -torch.inf
            chance = float(logits.log_softmax(1)[torch.arange(len(one.tokens)), one.tokens].sum().detach())
            compared = greedy[row] if baseline == "greedy" else several[:number] + several[number + 1 :]
            less = sum(reward(each.tokens) for each in compared) / len(compared)
            total -= (reward(one.tokens) - less) * chance
            words += len(one.tokens)
    torch.manual_seed(5)
    loss = system.training_step(caption_batch, 0)
    torch.testing.assert_close(loss.detach(), torch.tensor(total / words), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["others", "greedy"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_self_critical_training_raises_the_score_of_what_is_drawn(
    baseline: Literal["others", "greedy"],
    seed: int,
    make_captioner: MakeCaptioner,
    caption_batch: CaptionBatch,
    frequencies: DocumentFrequencies,
) -> None:
    """From a network that knows a little, as the paper begins with one."""
    torch.manual_seed(seed)
    system = make_captioner(max_length=6)
    system.__dict__["training_frequencies"] = frequencies

    def train(objective: CaptionObjective, steps: int, rate: float) -> None:
        system.objective = objective
        optimizer = torch.optim.Adam(system.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            system.training_step(caption_batch, 0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert system.training

    def score() -> float:
        system.eval()
        found = system.write(caption_batch, Sampling(), n_best=200)
        system.train()
        texts = [system.texts([[one]])[0] for several in found for one in several]
        references = [several for several in caption_batch.references for _ in range(200)]
        return sum(cider_d(texts, references, frequencies, words_and_end)) / len(texts)

    train(Likelihood(), 20, 5e-3)
    before = score()
    train(SelfCritical(8, baseline), 80, 1e-3)
    assert score() > before + 0.1


def test_the_chances_are_those_by_which_captions_were_drawn(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch, frequencies: DocumentFrequencies
) -> None:
    """Without dropout, in training too: with it a biased baseline drives the network apart."""
    sizes = RNNSizes(8, 16, "lstm", dropout=0.5)
    system = make_captioner(objective=SelfCritical(samples=4), max_length=6, sizes=sizes)
    system.__dict__["training_frequencies"] = frequencies
    losses = []
    for train in (True, False):
        system.train(train)
        torch.manual_seed(5)
        losses.append(system.training_step(caption_batch, 0).detach())
        assert system.training is train
    torch.testing.assert_close(losses[0], losses[1])


def test_a_caption_that_breaks_off_earns_less() -> None:
    """By its words alone one that ends in "a" would score as well as one that ends behind "grass"."""
    references = [["a dog runs on the grass", "a dog runs on a field", "the dog is on the grass"]]
    frequencies = DocumentFrequencies.of([*references, ["a cat"], ["a cow"], ["snow"]], words_and_end)
    texts = ["a dog runs on the grass", "a dog runs on the grass a"]
    whole, broken = cider_d(texts, references * 2, frequencies, words_and_end)
    assert whole > broken
    assert frequencies.counts["grass", "<end>"] == 1


def test_too_few_samples_and_an_unknown_baseline_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples must be 1 or more.*got samples=0 and baseline='greedy'"):
        SelfCritical(samples=0, baseline="greedy")
    with pytest.raises(ValueError, match="2 or more for the baseline 'others'; got samples=1 and baseline='others'"):
        SelfCritical(samples=1)
    with pytest.raises(ValueError, match="baseline must be 'others' or 'greedy', got 'best'"):
        SelfCritical(baseline=cast(Any, "best"))
