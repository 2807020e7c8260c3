import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules import HeldOut, Split
from datamodules.splits import SPLITS, stratified_split


class TestStratifiedSplit:
    @settings(max_examples=50, deadline=None)
    @given(
        labels=st.lists(st.integers(0, 4), min_size=1, max_size=80), fraction=st.floats(0.01, 0.9), seed=st.integers(0)
    )
    def test_the_same_fraction_of_each_class(self, labels: list[int], fraction: float, seed: int) -> None:
        rest, held = stratified_split(torch.tensor(labels), fraction, seed % 2**31)
        assert sorted([*rest.tolist(), *held.tolist()]) == list(range(len(labels)))
        for label in set(labels):
            members = labels.count(label)
            lost = sum(labels[index] == label for index in held.tolist())
            assert lost == (0 if members == 1 else max(1, round(fraction * members)))

    def test_the_seed_alone_decides(self) -> None:
        labels = torch.arange(200) % 7
        torch.manual_seed(1)
        first = stratified_split(labels, 0.2, seed=3)[1]
        torch.manual_seed(2)
        before = torch.get_rng_state()
        assert torch.equal(stratified_split(labels, 0.2, seed=3)[1], first)
        assert torch.equal(torch.get_rng_state(), before)
        assert not torch.equal(stratified_split(labels, 0.2, seed=4)[1], first)


def cut(numbers: list[int], fraction: float) -> tuple[list[int], list[int]]:
    count = round(fraction * len(numbers))
    return numbers[count:], numbers[:count]


class TestHeldOut:
    @pytest.mark.parametrize(("name", "value"), [("val", 1.0), ("test", -0.1), ("val", float("nan"))])
    def test_fractions_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\), got {value}"):
            HeldOut(**{name: value})

    def test_nothing_by_default(self) -> None:
        assert HeldOut().fill({"train": [1, 2]}, cut) == {"train": [1, 2]}

    def test_the_test_split_is_cut_first_and_validation_from_what_is_left(self) -> None:
        filled = HeldOut(val=0.25, test=0.2).fill({"train": list(range(10))}, cut)
        assert filled == {"train": [4, 5, 6, 7, 8, 9], "val": [2, 3], "test": [0, 1]}
        assert list(filled) == list(SPLITS)

    @pytest.mark.parametrize("given_split", ["val", "test"])
    def test_existing_splits_are_kept(self, given_split: Split) -> None:
        parts: dict[Split, list[int]] = {given_split: [-1], "train": list(range(10))}
        filled = HeldOut(val=0.5, test=0.5).fill(parts, cut)
        assert filled[given_split] == [-1]
        assert len(filled["train"]) == 5
        assert parts == {given_split: [-1], "train": list(range(10))}, "the argument is not changed"

    def test_without_training_data_nothing_is_cut(self) -> None:
        assert HeldOut(val=0.5, test=0.5).fill({"test": [1]}, cut) == {"test": [1]}
