import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from datamodules import BytePair, Character, ResumableLoader, TextBatch, TextDataset, TokenBatchSampler, TokenBudget
from datamodules.text.token_batches import whole
from tests.paths import SHARED

MULTI30K = SHARED / "multi30k" / "task1_raw"
LENGTHS = st.lists(st.tuples(st.integers(1, 20), st.integers(2, 20)), min_size=1, max_size=60).map(torch.tensor)


def random_lengths(count: int = 500) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(3, 30, (count,), generator=generator)
    return torch.stack([source, (source + torch.randint(-2, 3, (count,), generator=generator)).clamp(min=2)], dim=1)


def passes(lengths: Tensor, budget: TokenBudget, replicas: int = 1, epoch: int = 0) -> list[list[list[int]]]:
    """The batches of each rank."""
    samplers = [TokenBatchSampler(lengths, budget, replicas, rank) for rank in range(replicas)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


class TestTokenBatchSampler:
    @given(LENGTHS, st.integers(1, 100), st.booleans(), st.integers(1, 4), st.integers(0, 2))
    def test_every_pair_once_and_as_many_steps_on_every_rank(
        self, lengths: Tensor, max_tokens: int, shuffle: bool, replicas: int, epoch: int
    ) -> None:
        if len(lengths) < replicas:
            return
        budget = TokenBudget(max_tokens, shuffle)
        ranks = passes(lengths, budget, replicas, epoch)
        assert len({len(batches) for batches in ranks}) == 1
        assert len(ranks[0]) == len(TokenBatchSampler(lengths, budget, replicas, 0))
        assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(len(lengths)))
        assert all(batch for batches in ranks for batch in batches)

    @given(LENGTHS, st.integers(1, 100), st.booleans())
    def test_only_single_pairs_are_above_the_budget(self, lengths: Tensor, max_tokens: int, shuffle: bool) -> None:
        [batches] = passes(lengths, TokenBudget(max_tokens, shuffle))
        for batch in batches:
            longest = max(max(lengths[index].tolist()) for index in batch)
            assert len(batch) * longest <= max_tokens or len(batch) == 1

    @given(LENGTHS, st.integers(1, 100), st.integers(1, 10), st.booleans())
    def test_at_most_max_pairs(self, lengths: Tensor, max_tokens: int, max_pairs: int, shuffle: bool) -> None:
        [batches] = passes(lengths, TokenBudget(max_tokens, shuffle, max_pairs=max_pairs))
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) <= max_pairs
            assert len(batch) == 1 or len(batch) * max(max(lengths[index].tolist()) for index in batch) <= max_tokens

    def test_max_pairs_alone_gives_full_batches_with_little_padding(self) -> None:
        lengths = random_lengths(5000)
        lengths[:, 0] = 0  # as in data sets of images
        budget = TokenBudget(10**9, True, max_pairs=64)
        [batches] = passes(lengths, budget)
        assert sorted(len(batch) for batch in batches) == [8] + [64] * 78
        assert TokenBatchSampler(lengths, budget).padding_fraction() < 0.02
        ranks = passes(lengths, budget, 3)
        assert [len(batches) for batches in ranks] == [27] * 3
        assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(5000))

    def test_above_the_budget_alone_and_below_it_together(self) -> None:
        lengths = torch.tensor([[100, 3], [2, 2], [3, 120], [2, 3]])
        assert passes(lengths, TokenBudget(10)) == [[[1, 3], [0], [2]]]

    def test_batches_are_full(self) -> None:
        lengths = random_lengths()
        [batches] = passes(lengths, TokenBudget(200))
        following = [min(max(lengths[index].tolist()) for index in batch) for batch in batches[1:]]
        for batch, longer in zip(batches, following, strict=False):
            assert (len(batch) + 1) * longer > 200, "one more pair would fit"

    def test_without_shuffling_in_order_of_length_and_always_the_same(self) -> None:
        lengths = random_lengths()
        [batches] = passes(lengths, TokenBudget(200))
        longest = [max(max(lengths[index].tolist()) for index in batch) for batch in batches]
        assert longest == sorted(longest)
        assert passes(lengths, TokenBudget(200, seed=5), epoch=3) == [batches]

    def test_shuffled_by_seed_and_epoch(self) -> None:
        lengths = random_lengths()
        first = passes(lengths, TokenBudget(200, True, 7), epoch=2)
        torch.manual_seed(99)
        assert passes(lengths, TokenBudget(200, True, 7), epoch=2) == first
        others = [
            passes(lengths, TokenBudget(200, True, seed), epoch=epoch) for seed, epoch in ((7, 3), (8, 2), (8, 1))
        ]
        assert all(other != first for other in others)
        assert passes(lengths, TokenBudget(200, True, 8), epoch=0) != passes(
            lengths, TokenBudget(200, True, 7), epoch=1
        )

    def test_shuffling_changes_batches_and_their_order(self) -> None:
        lengths = random_lengths(2000)
        [first], [second] = (passes(lengths, TokenBudget(200, True), epoch=epoch) for epoch in (0, 1))
        kept = {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
        assert len(kept) < 0.2 * len(first)
        longest = [max(max(lengths[index].tolist()) for index in batch) for batch in first]
        assert longest != sorted(longest)

    def test_the_global_random_state_is_neither_used_nor_changed(self) -> None:
        before = torch.get_rng_state()
        list(TokenBatchSampler(random_lengths(), TokenBudget(200, True)))
        torch.testing.assert_close(torch.get_rng_state(), before)

    def test_start_skips_batches(self) -> None:
        sampler = TokenBatchSampler(random_lengths(), TokenBudget(200, True), 2, 1)
        everything = list(sampler)
        sampler.start = 5
        assert list(sampler) == everything[5:]
        assert len(sampler) == len(everything), "the length is the epoch's, on which Lightning counts"

    def test_padding_fraction_is_that_of_the_batches(self) -> None:
        lengths = random_lengths()
        sampler = TokenBatchSampler(lengths, TokenBudget(300, True))
        padded = sum(len(batch) * int(lengths[batch].amax(0).sum()) for batch in sampler)
        assert sampler.padding_fraction() == pytest.approx(1 - int(lengths.sum()) / padded)

    @pytest.mark.slow
    @pytest.mark.skipif(not MULTI30K.is_dir(), reason="the shared data is absent")
    def test_at_most_a_twentieth_is_padding_on_multi30k(self) -> None:
        german, english = (
            gzip.decompress((MULTI30K / f"train.{side}.gz").read_bytes()).decode().split("\n")[:-1]
            for side in ("de", "en")
        )
        made = BytePair(8000).train([*german, *english])
        dataset = TextDataset(german, english, made, made)
        assert len(dataset) == 29_000
        for shuffle in (True, False):
            sampler = TokenBatchSampler(dataset.lengths, TokenBudget(4096, shuffle))
            padding = real = 0
            for batch in map(dataset.__getitem__, sampler):
                for side, lengths in ((batch.source, batch.source_lengths), (batch.target, batch.target_lengths)):
                    padding += int((side == made.pad_id).sum())
                    real += int(lengths.sum())
                assert max(batch.source.numel(), batch.target.numel()) <= 4096
            assert padding / (padding + real) <= 0.05

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.ones(3), TokenBudget()), r"lengths must be \(n, 2\).*got \(3,\)"),
            ((torch.ones(3, 2), TokenBudget(0)), "max_tokens must be 1 or more, got 0"),
            ((torch.ones(3, 2), TokenBudget(max_pairs=0)), "max_pairs must be 1 or more, got 0"),
            ((torch.ones(3, 2), TokenBudget(), 4), "3 pairs are too few for 4 processes"),
        ],
    )
    def test_arguments_are_checked(self, arguments: tuple[Any, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TokenBatchSampler(*arguments)


WORDS = [str(number) for number in range(1000, 1150)] + [str(number) for number in range(50)]


def loader(workers: int = 0, max_tokens: int = 40, words: list[str] = WORDS) -> ResumableLoader[TextBatch]:
    made = Character().train(["0123456789"])
    dataset = TextDataset(words, words, made, made)
    sampler = TokenBatchSampler(dataset.lengths, TokenBudget(max_tokens, shuffle=True, seed=3))
    return ResumableLoader(dataset, sampler=sampler, batch_size=None, collate_fn=whole, num_workers=workers)


class TestResumableLoader:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_resumes_at_its_position(self, workers: int) -> None:
        everything = [batch.source_texts for batch in loader()]
        cut = loader(workers)
        iterator = iter(cut)
        seen = [next(iterator).source_texts for _ in range(4)]
        state = cut.state_dict()
        assert state == {"epoch": 0, "batches": 4, "of": len(everything)}
        resumed = loader(workers)
        resumed.load_state_dict(state)
        assert seen + [batch.source_texts for batch in resumed] == everything
        assert resumed.state_dict()["batches"] == len(everything)

    def test_the_next_epoch_is_complete(self) -> None:
        resumed = loader()
        resumed.load_state_dict({"epoch": 0, "batches": 4, "of": len(resumed)})
        assert len(list(resumed)) == len(resumed) - 4
        resumed.sampler.set_epoch(1)  # type: ignore[attr-defined]
        assert len(list(resumed)) == len(resumed)

    def test_every_pass_is_complete(self) -> None:
        twice = loader()
        next(iter(twice))
        first, second = ([batch.source_texts for batch in twice] for _ in range(2))
        assert first == second
        assert len(first) == len(twice)

    def test_a_position_of_another_epoch_is_ignored(self) -> None:
        resumed = loader()
        resumed.load_state_dict({"epoch": 4, "batches": 4, "of": len(resumed)})
        assert len(list(resumed)) == len(resumed)

    def test_an_epoch_with_other_batches_is_an_error(self) -> None:
        resumed = loader(max_tokens=80)
        total = len(loader())
        with pytest.raises(
            ValueError, match=f"after 4 of {total} batches of an epoch, but here an epoch has {len(resumed)}"
        ):
            resumed.load_state_dict({"epoch": 0, "batches": 4, "of": total})
        resumed.load_state_dict({"epoch": 0, "batches": total, "of": total})
        assert len(list(resumed)) == len(resumed), "at the end of an epoch there is nothing to resume"


class Recorder(LightningModule):
    """Records each training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)
        self.seen: list[tuple[int, tuple[str, ...]]] = []
        self.validated: list[str] = []

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, tuple(batch.source_texts)))
        return self.network(batch.source[:, :1].float()).mean()

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        self.validated += batch.source_texts

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(folder: Path, **arguments: Any) -> Trainer:  # noqa: ANN401
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{**quiet, "max_epochs": 3, **arguments})


@pytest.mark.parametrize(("steps", "workers"), [(3, 0), (15, 0), (20, 0), (20, 1), (30, 0)])
def test_a_resumed_training_sees_exactly_the_remaining_batches(tmp_path: Path, steps: int, workers: int) -> None:
    per_epoch = len(loader(max_tokens=80))
    assert per_epoch == 15, "so the steps are within, at the end of, within and at the end of an epoch"
    whole_run = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(whole_run, loader(max_tokens=80), loader())
    keep = ModelCheckpoint(tmp_path, filename="cut", every_n_train_steps=steps, save_top_k=-1)
    trainer(tmp_path, callbacks=[keep], max_steps=steps).fit(Recorder(), loader(workers, 80), loader())
    resumed = Recorder()
    again = trainer(tmp_path, enable_checkpointing=False)
    seed_everything(11)
    again.fit(resumed, loader(workers, 80), loader(), ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    assert resumed.seen == whole_run.seen[steps:]
    assert again.global_step == 3 * per_epoch == again.estimated_stepping_batches


def test_a_checkpoint_at_the_end_of_an_epoch_resumes_with_the_next(tmp_path: Path) -> None:
    whole_run = Recorder()
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer(tmp_path, callbacks=[keep]).fit(whole_run, loader(max_tokens=80))
    resumed = Recorder()
    again = trainer(tmp_path, enable_checkpointing=False)
    again.fit(resumed, loader(max_tokens=80), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
    assert resumed.seen == whole_run.seen[15:]


def test_each_epoch_is_shuffled_again_and_complete(tmp_path: Path) -> None:
    model = Recorder()
    trainer(tmp_path, enable_checkpointing=False).fit(model, loader())
    epochs = [[texts for epoch, texts in model.seen if epoch == number] for number in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    for batches in epochs:
        assert Counter(text for texts in batches for text in texts) == Counter(WORDS)


def test_lightning_may_replace_the_sampler(tmp_path: Path) -> None:
    model = Recorder()
    trainer(tmp_path, enable_checkpointing=False, max_epochs=2, overfit_batches=3).fit(model, loader())
    assert [texts for _, texts in model.seen] == [(word,) for word in WORDS[:3]] * 2
