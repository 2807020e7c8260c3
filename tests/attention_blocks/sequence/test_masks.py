import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from attention_blocks import causal_mask, padding_mask, window_mask
from attention_blocks.sequence.masks import check_mask, check_polarity

lengths_of_rows = st.lists(st.integers(0, 9), min_size=1, max_size=5)
reach = st.none() | st.integers(0, 6)
looks_inverted = pytest.warns(UserWarning, match=r"looks inverted.*True means may attend.*pass ~mask")
quickly = settings(max_examples=60, deadline=None, derandomize=True)


def queries_of(length: int) -> Tensor:
    return torch.zeros(2, length, 4)


def accepted(mask: Tensor, queries: int) -> None:
    """Nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_polarity(mask, queries_of(queries))


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
    accepted(mask, queries)
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
    accepted(mask, queries)
    assert check_mask(mask, mask.size(0), queries, mask.size(2)) is not None


def test_two_queries_are_too_few_to_detect_inversion() -> None:
    accepted(~causal_mask(2), 2)
    with looks_inverted:
        check_polarity(~causal_mask(3), queries_of(3))


@quickly
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=5).filter(lambda lengths: len(set(lengths)) > 1))
def test_detects_inverted_padding(lengths: list[int]) -> None:
    mask = ~padding_mask(torch.tensor(lengths))
    for queries in (2, 5):
        with looks_inverted:
            check_polarity(mask, queries_of(queries))
    accepted(mask, 1)  # may be a window at the end of the longest sequence


@pytest.mark.parametrize("lead", [(), (1,), (4,), (4, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("length", [3, 7])
def test_detects_inverted_causal_masks(lead: tuple[int, ...], length: int) -> None:
    with looks_inverted:
        check_polarity(~causal_mask(length).expand(*lead, length, length), queries_of(length))


def test_an_inverted_mask_on_an_accelerator_is_not_read() -> None:
    mask = (~causal_mask(4)).to("meta")
    accepted(mask, 4)
    assert check_mask(mask, 2, 4, 4) is not None


def test_an_inverted_mask_of_another_class_is_not_read() -> None:
    with FakeTensorMode():
        mask = ~causal_mask(4)
        accepted(mask, 4)
        assert check_mask(mask, 2, 4, 4) is not None


def test_values_that_a_transform_does_not_know_are_not_read() -> None:
    inverted = ~causal_mask(4).expand(3, 4, 4)

    def checked(mask: Tensor) -> Tensor:
        check_polarity(mask, queries_of(4))
        check_polarity(mask & inverted, queries_of(4))
        return mask.int()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.func.vmap(checked)(inverted.expand(5, -1, -1, -1))
        make_fx(checked)(inverted)
        make_fx(checked, tracing_mode="symbolic", _allow_non_fake_inputs=True)(inverted)
        torch._dynamo.reset()
        torch.compile(checked, fullgraph=True, backend="eager")(inverted)


def test_no_mask_and_masks_that_are_refused_elsewhere_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_polarity(None, queries_of(3))
        check_polarity((~causal_mask(3)).float(), queries_of(3))


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


@quickly
@given(data=st.data(), batch=st.integers(1, 3), heads=st.integers(1, 4))
def test_check_mask_accepts_a_mask_for_each_head(data: st.DataObject, batch: int, heads: int) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=4, max_size=5)))
    mask, wanted = torch.rand(shape) > 0.5, (batch, heads, 2, 3)
    fits = len(shape) == 4 and all(size in (1, full) for size, full in zip(shape, wanted, strict=True))
    if not fits:
        with pytest.raises(ValueError, match="does not broadcast"):
            check_mask(mask, batch, 2, 3, heads)
        return
    checked = check_mask(mask, batch, 2, 3, heads)
    assert checked is not None
    assert checked.shape == (*shape[:3], 3)
    assert torch.equal(checked.expand(wanted), mask.expand(wanted))
    with pytest.raises(ValueError, match=r"does not broadcast to \(B, T_q, T_k\)"):
        check_mask(mask, batch, 2, 3)


def test_check_mask_names_the_heads() -> None:
    with pytest.raises(ValueError, match=r"to \(B, N, T_q, T_k\) = \(2, 4, 3, 5\)"):
        check_mask(torch.ones(2, 3, 3, 5, dtype=torch.bool), 2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"to \(B, T_q, T_k\) = \(2, 3, 5\)"):
        check_mask(torch.ones(4, 3, 5, dtype=torch.bool), 2, 3, 5, 4)


def test_check_mask_accepts_no_mask() -> None:
    assert check_mask(None, 2, 3, 4) is None
    assert check_mask(None, 2, 3, 4, 5) is None
