"""Self-critical training against the paper's formula."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
import sacrebleu
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules import CaptionBatch
from lightning_modules import BeamSearch, Likelihood, Objective, RNNSizes, Sampling, SelfCritical
from lightning_modules.captioning.captioner import words_and_end
from lightning_modules.metrics.cider import DocumentFrequencies, cider_d
from tests.lightning_modules.conftest import CAPTION_RNN

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner, MakeTextBatch, MakeTrainer, MakeTranslator

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to .self.log")


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
    system.__dict__["_frequencies"] = frequencies
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
            # Tokens that are never generated have no probability.
            logits[:, [getattr(system.target_tokenizer, name) for name in ("pad_id", "bos_id", "unk_id")]] = -torch.inf
            chance = float(logits.log_softmax(1)[torch.arange(len(one.tokens)), one.tokens].sum().detach())
            compared = greedy[row] if baseline == "greedy" else several[:number] + several[number + 1 :]
            less = sum(reward(each.tokens) for each in compared) / len(compared)
            total -= (reward(one.tokens) - less) * chance
            words += len(one.tokens)
    torch.manual_seed(5)
    loss = system.training_step(caption_batch, 0)
    torch.testing.assert_close(loss.detach(), torch.tensor(total / words), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("baseline", ["others", pytest.param("greedy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_self_critical_training_raises_the_score_of_sampled_captions(
    baseline: Literal["others", "greedy"],
    seed: int,
    make_captioner: MakeCaptioner,
    caption_batch: CaptionBatch,
    frequencies: DocumentFrequencies,
) -> None:
    """From a network that knows a little, as the paper begins with one."""
    torch.manual_seed(seed)
    system = make_captioner(max_length=6)
    system.__dict__["_frequencies"] = frequencies

    def train(objective: Objective, steps: int, rate: float) -> None:
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


def test_probabilities_are_those_that_captions_were_sampled_with(
    make_captioner: MakeCaptioner, caption_batch: CaptionBatch, frequencies: DocumentFrequencies
) -> None:
    """Without dropout, in training too: with it a biased baseline drives the network apart."""
    network = partial(CAPTION_RNN, sizes=RNNSizes(8, 16, "lstm", dropout=0.5))
    system = make_captioner(objective=SelfCritical(samples=4), max_length=6, network=network)
    system.__dict__["_frequencies"] = frequencies
    losses = []
    for train in (True, False):
        system.train(train)
        torch.manual_seed(5)
        losses.append(system.training_step(caption_batch, 0).detach())
        assert system.training is train
    torch.testing.assert_close(losses[0], losses[1])


def test_a_truncated_caption_has_a_lower_reward() -> None:
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
    with pytest.raises(ValueError, match=r"samples=1 .*baseline='others'"):
        SelfCritical(samples=1)
    with pytest.raises(ValueError, match=r"baseline .*got 'best'"):
        SelfCritical(baseline=cast(Any, "best"))


def test_it_trains_translators_by_chrf(make_writer: MakeTranslator, make_text_batch: MakeTextBatch) -> None:
    system, batch = make_writer("luong", objective=SelfCritical(samples=4)), make_text_batch()
    rewards = system.rewards(["the dog sees", "a man"], [["the dog sees"], ["the dog", "a man sings"]])
    assert rewards[0] == 1.0
    assert rewards[1] == pytest.approx(sacrebleu.sentence_chrf("a man", ["the dog", "a man sings"]).score / 100)
    loss = system.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in system.parameters())


def test_a_captioner_needs_the_training_captions(
    make_captioner: MakeCaptioner, make_trainer: MakeTrainer, caption_batch: CaptionBatch
) -> None:
    system = make_captioner(objective=SelfCritical(samples=2), max_length=6)
    loader = DataLoader(cast(Dataset[CaptionBatch], [caption_batch]), batch_size=None, collate_fn=lambda batch: batch)
    with pytest.raises(ValueError, match=r"objective=SelfCritical.*training_references"):
        make_trainer().fit(system, loader)
