from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules import NumberBasesDataModule
from datamodules.splits import SPLITS
from datamodules.text.number_bases import in_base


@given(st.integers(0, 10**30), st.integers(2, 36))
def test_in_base(number: int, base: int) -> None:
    written = in_base(number, base)
    assert int(written, base) == number
    assert written == "0" or not written.startswith("0")


@given(st.integers(0, 2**60), st.integers(2, 36))
def test_in_base_equals_numpy(number: int, base: int) -> None:
    assert in_base(number, base) == np.base_repr(number, base).lower()


def small(**arguments: Any) -> NumberBasesDataModule:  # noqa: ANN401
    return NumberBasesDataModule(**{"limit": 500, "train_size": 300, "val_size": 40, "test_size": 50, **arguments})


@pytest.mark.parametrize(("source", "target"), [(10, 2), (2, 10), (16, 36), (3, 3)])
def test_every_pair_is_one_number_in_both_bases(source: int, target: int) -> None:
    data = small(source_base=source, target_base=target)
    for split in SPLITS:
        dataset = data.dataset(split)
        for written, answer in zip(dataset.source_texts, dataset.target_texts, strict=True):
            assert int(written, source) == int(answer, target) < 500


def test_numbers_of_the_splits_are_disjoint() -> None:
    data = small()
    drawn = [[int(text) for text in data.dataset(split).source_texts] for split in SPLITS]
    assert [len(numbers) for numbers in drawn] == [300, 40, 50]
    assert len({number for numbers in drawn for number in numbers}) == 390
    assert max(map(max, drawn)) > 450
    assert min(map(min, drawn)) < 50


def test_short_numbers_are_repeated_in_training() -> None:
    plain, repeated = small(), small(short_repeats=3)
    for split in ("val", "test"):
        assert plain.dataset(split).source_texts == repeated.dataset(split).source_texts
    shown = Counter(repeated.dataset("train").source_texts)
    assert set(shown) == set(plain.dataset("train").source_texts)
    assert all(times == (1 if len(number) == 3 else 3) for number, times in shown.items())
    assert 3 in shown.values()


@pytest.mark.parametrize(("target", "length"), [(2, 9), (10, 3), (36, 2)])
def test_leading_zeros_give_targets_of_equal_length(target: int, length: int) -> None:
    plain, filled = small(target_base=target), small(target_base=target, leading_zeros=True)
    for split in SPLITS:
        answers = filled.dataset(split).target_texts
        assert {len(answer) for answer in answers} == {length}
        assert [answer.lstrip("0") or "0" for answer in answers] == list(plain.dataset(split).target_texts)
        assert filled.dataset(split).source_texts == plain.dataset(split).source_texts


def test_one_token_per_character_and_all_digits_known() -> None:
    data = small(source_base=16, limit=20, train_size=5, val_size=0, test_size=1)
    digits = data.source_tokenizer
    assert digits.tokens(range(4, len(digits))) == list("0123456789abcdef")
    batch = data.dataset("train")[[0, 1, 2]]
    assert digits.decode(batch.source.tolist()) == batch.source_texts
    assert batch.source_lengths.tolist() == [len(text) + 1 for text in batch.source_texts]
    assert data.target_tokenizer.decode(batch.target.tolist()) == batch.target_texts


def test_seed_decides_which_numbers_and_in_what_order() -> None:
    orders = [
        [batch.source_texts for batch in small(seed=seed, max_tokens=300).train_dataloader()] for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    drawn = [sorted(text for texts in order for text in texts) for order in orders]
    assert drawn[0] != drawn[2]


def test_numbers_may_be_large() -> None:
    data = NumberBasesDataModule(limit=10**18, train_size=5, val_size=1, test_size=1)
    assert max(len(text) for text in data.dataset("train").source_texts) > 15


def test_defaults_are_ready_to_train_on() -> None:
    data = NumberBasesDataModule()
    assert len(data.dataset("train")) == 20_000
    assert data.summary().startswith("NumberBasesDataModule: 22,000 pairs; vocabularies of 14 and 6 tokens")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source_base": 1}, "source_base must lie in 2 to 36, got 1"),
        ({"target_base": 37}, "target_base must lie in 2 to 36, got 37"),
        ({"limit": 100}, "limit=100 .* 390 different numbers"),
        ({"train_size": 0}, "train_size must be 1 or more, got 0"),
        ({"val_size": -1}, "val_size must be 0 or more, got -1"),
        ({"short_repeats": 0}, "short_repeats must be 1 or more, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)
