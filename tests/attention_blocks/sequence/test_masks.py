import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_blocks import causal_mask, padding_mask, window_mask
from attention_blocks.sequence.masks import check_mask, check_polarity

lengths_of_rows = st.lists(st.integers(0, 9), min_size=1, max_size=5)
reach = st.none() | st.integers(0, 6)
quickly = settings(max_examples=60, deadline=None, derandomize=True)


@quickly
@given(lengths=lengths_of_rows, extra=st.none() | st.integers(0, 4))
def test_padding_mask(lengths: list[int], extra: int | None) -> None:
    longest = max(lengths) + (extra or 0)
    mask = padding_mask(torch.tensor(lengths), None if extra is None else longest)
    assert mask.dtype == torch.bool
    assert mask.shape == (len(lengths), 1, longest)
    assert mask.squeeze(1).tolist() == [[position < length for position in range(longest)] for length in lengths]


@quickly
@given(
    queries=st.integers(0, 7), keys=st.none() | st.integers(0, 9), before=reach, after=reach, offset=st.integers(0, 5)
)
def test_window_mask(queries: int, keys: int | None, before: int | None, after: int | None, offset: int) -> None:
    mask = window_mask(queries, keys, before=before, after=after, offset=offset)
    keys = offset + queries if keys is None else keys
    assert mask.dtype == torch.bool
    assert mask.shape == (queries, keys)
    for query in range(queries):
        for key in range(keys):
            position = offset + query
            early = before is not None and key < position - before
            late = after is not None and key > position + after
            assert mask[query, key].item() is not (early or late)


@quickly
@given(queries=st.integers(1, 7), keys=st.none() | st.integers(1, 9), offset=st.integers(0, 5))
def test_causal_mask(queries: int, keys: int | None, offset: int) -> None:
    mask = causal_mask(queries, keys, offset=offset)
    for query, row in enumerate(mask.tolist()):
        assert row == [key <= query + offset for key in range(offset + queries if keys is None else keys)]


@quickly
@given(lengths=lengths_of_rows, before=reach, after=reach)
def test_masks_combine(lengths: list[int], before: int | None, after: int | None) -> None:
    longest = max(lengths)
    mask = padding_mask(torch.tensor(lengths)) & causal_mask(longest) & window_mask(longest, before=before, after=after)
    assert mask.shape == (len(lengths), longest, longest)
    for row, length in enumerate(lengths):
        for query in range(longest):
            for key in range(longest):
                near = before is None or key >= query - before
                assert mask[row, query, key].item() is (key < length and key <= query and near)


@quickly
@given(lengths=lengths_of_rows, queries=st.integers(1, 9), before=reach, after=reach, data=st.data())
def test_no_mask_of_ours_looks_inverted(
    lengths: list[int], queries: int, before: int | None, after: int | None, data: st.DataObject
) -> None:
    longest = max(lengths)
    parts = {
        "padding": padding_mask(torch.tensor(lengths)),
        "causal": causal_mask(queries, longest),
        "window": window_mask(queries, longest, before=before, after=after),
        "later": causal_mask(queries, longest, offset=data.draw(st.integers(0, 9))),
    }
    if queries == 1:
        # One step of a decoder whose window has moved along the source.
        parts["moved"] = window_mask(1, longest, before=before, after=after, offset=data.draw(st.integers(0, 9)))
    chosen = data.draw(st.sets(st.sampled_from(sorted(parts)), min_size=1))
    mask = torch.ones((), dtype=torch.bool)
    for name in sorted(chosen):
        mask = mask & parts[name]
    check_polarity(mask, queries)
    assert check_mask(mask, len(lengths), queries, longest) is not None


@pytest.mark.parametrize(
    ("mask", "queries"),
    [
        (padding_mask(torch.tensor([9, 4])) & window_mask(1, 9, before=2, after=2, offset=7), 1),
        (torch.tensor([[True, True, False], [False, False, True]])[:, None], 4),
        (torch.tensor([[False, False, False, False], [False, True, False, True]])[:, None], 4),
        (torch.zeros(2, 1, 3, dtype=torch.bool), 4),
        (torch.zeros(0, 3, 3, dtype=torch.bool), 3),
    ],
    ids=["window at the end", "packed", "holes", "nothing", "no rows"],
)
def test_masks_that_resemble_inverted_ones_are_accepted(mask: Tensor, queries: int) -> None:
    check_polarity(mask, queries)
    assert check_mask(mask, mask.size(0), queries, mask.size(2)) is not None


def test_two_queries_are_too_few_to_detect_inversion() -> None:
    check_polarity(~causal_mask(2))
    with pytest.raises(ValueError, match="looks inverted"):
        check_polarity(~causal_mask(3))


@quickly
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5).filter(lambda lengths: len(set(lengths)) > 1))
def test_detects_inverted_padding(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"looks inverted.*True means may attend.*pass ~mask"):
        check_polarity(~padding_mask(torch.tensor(lengths)))


@pytest.mark.parametrize("lead", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("length", [3, 7])
def test_detects_inverted_causal_masks(lead: tuple[int, ...], length: int) -> None:
    with pytest.raises(ValueError, match=r"looks inverted"):
        check_polarity(~causal_mask(length).expand(*lead, length, length))


def test_an_inverted_mask_on_an_accelerator_is_not_read() -> None:
    mask = (~causal_mask(4)).to("meta")
    check_polarity(mask)
    assert check_mask(mask, 2, 4, 4) is not None


def test_an_inverted_mask_of_another_class_is_not_read() -> None:
    with FakeTensorMode():
        mask = ~causal_mask(4)
        check_polarity(mask)
        assert check_mask(mask, 2, 4, 4) is not None


@pytest.mark.parametrize("lengths", [torch.tensor([1.0]), torch.tensor([True]), torch.tensor([1j])], ids=str)
def test_lengths_are_integers(lengths: Tensor) -> None:
    with pytest.raises(TypeError, match=rf"lengths must hold integers, got {lengths.dtype}"):
        padding_mask(lengths)


@pytest.mark.parametrize("shape", [(), (2, 1)], ids=str)
def test_refuses_lengths_that_are_not_one_per_sequence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"lengths must have shape \(B,\), got"):
        padding_mask(torch.ones(shape, dtype=torch.long))


@pytest.mark.parametrize(("name", "before", "after"), [("before", -1, None), ("after", 2, -1)])
def test_refuses_a_window_of_negative_size(name: str, before: int, after: int | None) -> None:
    with pytest.raises(ValueError, match=rf"{name} counts positions and must be 0 or more, got -1; omit it for all"):
        window_mask(3, before=before, after=after)


def test_masks_are_created_on_the_device() -> None:
    assert causal_mask(3, device="meta").device.type == "meta"
    assert window_mask(3, device="meta").device.type == "meta"
    assert padding_mask(torch.ones(3, dtype=torch.long, device="meta"), 4).device.type == "meta"


@quickly
@given(data=st.data(), batch=st.integers(1, 4), queries=st.integers(1, 4), keys=st.integers(1, 4))
def test_check_mask_accepts_masks_that_broadcast_and_no_others(
    data: st.DataObject, batch: int, queries: int, keys: int
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=4)))
    mask, wanted = torch.rand(shape) > 0.5, (batch, queries, keys)
    try:
        expanded = mask.expand(wanted)
    except RuntimeError:
        with pytest.raises(ValueError, match="does not broadcast"):
            check_mask(mask, *wanted)
        return
    checked = check_mask(mask, *wanted)
    assert checked is not None
    assert checked.ndim == 3
    assert checked.size(-1) == keys
    assert torch.equal(checked.expand(wanted), expanded)


def test_check_mask_accepts_no_mask() -> None:
    assert check_mask(None, 2, 3, 4) is None
