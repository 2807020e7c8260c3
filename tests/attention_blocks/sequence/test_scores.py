import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attention_blocks import AttentionOutput, causal_mask, dot_product_attention, masked_softmax
from attention_blocks.sequence import scores as module

quickly = settings(max_examples=60, deadline=None, derandomize=True)
both_paths = pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Grows with each call of torch's kernel."""
    kernel: Callable[..., Tensor] = F.scaled_dot_product_attention
    calls: list[object] = []

    def recorder(*arguments: Tensor | float | None, **options: object) -> Tensor:
        calls.append(arguments)
        return kernel(*arguments, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorder)
    return calls


def softmax(scores: list[float], mask: list[bool]) -> list[float]:
    """exp over the sum of exps, over the keys that the mask allows."""
    highest = max((score for score, is_open in zip(scores, mask, strict=True) if is_open), default=0.0)
    exp = [math.exp(score - highest) if is_open else 0.0 for score, is_open in zip(scores, mask, strict=True)]
    return [e / sum(exp) if sum(exp) else 0.0 for e in exp]


@quickly
@given(data=st.data(), queries=st.integers(1, 4), keys=st.integers(1, 6))
def test_masked_softmax(data: st.DataObject, queries: int, keys: int) -> None:
    row = st.lists(st.floats(-1e4, 1e4), min_size=keys, max_size=keys)
    scores = data.draw(st.lists(row, min_size=queries, max_size=queries))
    flags = st.lists(st.booleans(), min_size=keys, max_size=keys)
    mask = data.draw(st.lists(flags, min_size=queries, max_size=queries))
    found = masked_softmax(torch.tensor(scores, dtype=torch.float64), torch.tensor(mask))
    wanted = torch.tensor([softmax(s, m) for s, m in zip(scores, mask, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_masked_softmax_widens_low_precision(dtype: torch.dtype) -> None:
    scores = torch.randn(2, 3, 4).to(dtype)
    found = masked_softmax(scores, torch.tensor([True, True, True, False]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[..., :3], scores[..., :3].double().softmax(-1).float())


def test_masked_softmax_gives_an_empty_row_no_gradient() -> None:
    scores = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, False, False], [True, False, True]])
    (gradient,) = torch.autograd.grad(masked_softmax(scores, mask)[:, 0].sum(), scores)
    assert gradient.isfinite().all()
    assert not gradient[0].any()
    assert gradient[1].any(-1)
    assert gradient[1, 1] == 0


@both_paths
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_no_step_of_the_backward_pass_is_nan(need_weights: bool) -> None:
    query, key, value = (torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 4, 4) > 0.4
    mask[0, :, 1], mask[1] = False, False
    with torch.autograd.detect_anomaly():
        context = dot_product_attention(query, key, value, mask, need_weights=need_weights).context
        gradients = torch.autograd.grad(context.sum(), (query, key, value))
    assert not any(gradient[1].any() for gradient in gradients)
    assert all(gradient[0].any() for gradient in gradients)


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The formula in float64, not fused: softmax(scale · q·k + bias) v."""
    scores = scale * torch.einsum("bnqd,bnkd->bnqk", query.double(), key.double())
    if bias is not None:
        scores = scores + bias.double()
    exp = (scores - scores.amax(-1, keepdim=True)).exp()
    if mask is not None:
        exp = exp * mask
    weights = torch.nan_to_num(exp / exp.sum(-1, keepdim=True))
    return torch.einsum("bnqk,bnkd->bnqd", weights, value.double()), weights


@quickly
@given(
    data=st.data(),
    queries=st.integers(1, 4),
    keys=st.integers(1, 5),
    need_weights=st.booleans(),
    masked=st.booleans(),
    biased=st.booleans(),
    causal=st.booleans(),
    scale=st.none() | st.floats(0.1, 3.0),
)
def test_both_paths_follow_the_formula(
    data: st.DataObject,
    queries: int,
    keys: int,
    need_weights: bool,
    masked: bool,
    biased: bool,
    causal: bool,
    scale: float | None,
) -> None:
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    query, key, value = (
        torch.randn(2, 3, t, d, generator=draw, dtype=torch.float64) for t, d in ((queries, 4), (keys, 4), (keys, 5))
    )
    mask = torch.rand(2, 1, queries, keys, generator=draw) > 0.4 if masked else None
    bias = torch.randn(3, queries, keys, generator=draw) if biased else None
    allowed = mask
    if causal:
        band = causal_mask(queries, keys)
        allowed = band if mask is None else mask & band
    context, weights = attention(query, key, value, allowed, bias, 0.5 if scale is None else scale)
    found = dot_product_attention(
        query, key, value, mask, score_bias=bias, scale=scale, causal=causal, need_weights=need_weights
    )
    torch.testing.assert_close(found.context, context)
    if need_weights:
        torch.testing.assert_close(found.weights, weights)
    else:
        assert found.weights is None


@both_paths
def test_a_learned_bias_gets_its_gradient(need_weights: bool) -> None:
    query, key, value = (torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(3))
    bias = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 4, 4) > 0.3
    mask[0, :, 1] = False

    def run(bias: Tensor) -> Tensor:
        return dot_product_attention(query, key, value, mask, score_bias=bias, need_weights=need_weights).context

    assert torch.autograd.gradcheck(run, (bias,), fast_mode=True)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_scores_are_safe_in_low_precision(need_weights: bool, dtype: torch.dtype, masked: bool, biased: bool) -> None:
    query, key, value = (torch.randn(2, 3, t, d) for t, d in ((4, 8), (6, 8), (6, 5)))
    mask = torch.rand(2, 1, 4, 6) > 0.3 if masked else None
    bias = torch.randn(3, 4, 6) if biased else None
    # Products too large for fp16, which a small scale compensates.
    low = [(200 * x).to(dtype) for x in (query, key)] + [value.to(dtype)]
    assert (low[0].double() @ low[1].double().mT).abs().max() > torch.finfo(torch.float16).max
    wanted, _ = attention(low[0], low[1], low[2], mask, bias, 2e-5)
    found = dot_product_attention(
        low[0], low[1], low[2], mask, score_bias=bias, scale=2e-5, need_weights=need_weights
    ).context
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=16 * torch.finfo(dtype).eps)


@pytest.mark.filterwarnings("ignore:.*autocast_cpu.*deprecated")
@pytest.mark.parametrize("use", ["halves", "autocast", "compiled"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_fused_kernel_is_not_used_where_it_is_wrong(
    use: str, causal: bool, monkeypatch: pytest.MonkeyPatch, fused_calls: list[object]
) -> None:
    """On CPUs with torch 2.3 and 2.4, which newer versions simulate here."""
    query, key, value = (torch.randn(2, 3, t, 8) for t in (4, 6, 6))
    wanted, _ = attention(query, key, value, causal_mask(4, 6) if causal else None, None, 8**-0.5)
    monkeypatch.setattr(module, "_SOUND_ON_CPU", False)
    torch.testing.assert_close(dot_product_attention(query, key, value, causal=causal).context, wanted.float())
    assert len(fused_calls) == 1
    torch._dynamo.reset()
    run: Callable[..., AttentionOutput] = partial(dot_product_attention, causal=causal)
    if use == "compiled":
        run = torch.compile(run, fullgraph=True, backend="eager")
    if use == "halves":
        query, key, value = query.half(), key.half(), value.half()
    with torch.autocast("cpu", torch.float16, enabled=use == "autocast"):
        found = run(query, key, value)
    assert len(fused_calls) == 1
    assert found.weights is None
    assert found.context.dtype == (torch.float32 if use == "compiled" else torch.float16)
    torch.testing.assert_close(found.context.double(), wanted, rtol=0, atol=1e-5 if use == "compiled" else 1e-2)


@settings(deadline=None, max_examples=25)
@given(queries=st.integers(1, 9), keys=st.integers(1, 7), masked=st.booleans(), biased=st.booleans())
def test_few_queries_without_gradients_give_the_same_result(
    queries: int, keys: int, masked: bool, biased: bool
) -> None:
    """A decoding step, which does not use the fused kernel on CPUs."""
    query, key, value = (torch.randn(2, 3, t, 8) for t in (queries, keys, keys))
    mask = torch.rand(2, 1, queries, keys) < 0.6 if masked else None
    bias = torch.randn(3, queries, keys) if biased else None
    run = partial(dot_product_attention, query, key, value, mask, score_bias=bias)
    with torch.no_grad():
        found = run()
    assert found.weights is None
    torch.testing.assert_close(found.context, run().context)


@both_paths
def test_zero_keys_give_zero(need_weights: bool) -> None:
    found = dot_product_attention(
        torch.randn(2, 3, 4, 5), torch.randn(2, 3, 0, 5), torch.randn(2, 3, 0, 6), need_weights=need_weights
    )
    assert torch.equal(found.context, torch.zeros(2, 3, 4, 6))


@both_paths
def test_refuses_a_mask_that_is_not_boolean(need_weights: bool) -> None:
    query = torch.randn(1, 1, 2, 4)
    with pytest.raises(TypeError, match=r"mask must be boolean .* got torch.float32"):
        dot_product_attention(query, query, query, torch.zeros(2, 2), need_weights=need_weights)
    with pytest.raises(TypeError, match=r"mask must be boolean .* got torch.int64"):
        masked_softmax(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.long))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("queries", "keys", "fused"), [(3, 5, 0), (200, 200, 0), (3, 201, 1), (201, 3, 1)])
def test_bfloat16_is_trained_on_the_faster_path(
    queries: int, keys: int, fused: int, autocast: bool, fused_calls: list[object]
) -> None:
    mask = torch.rand(2, 1, queries, keys) > 0.2
    upstream = torch.randn(2, 3, queries, 16).bfloat16()
    shapes = [(2, 3, positions, 16) for positions in (queries, keys, keys)]
    query, key, value = (torch.randn(shape).bfloat16().double().requires_grad_() for shape in shapes)
    context = dot_product_attention(query, key, value, mask).context
    wanted = torch.autograd.grad(context, (query, key, value), upstream.double())
    fused_calls.clear()
    dtype = torch.float32 if autocast else torch.bfloat16
    query, key, value = (x.detach().to(dtype).requires_grad_() for x in (query, key, value))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        context = dot_product_attention(query, key, value, mask).context
    found = torch.autograd.grad(context, (query, key, value), upstream.to(context.dtype))
    assert len(fused_calls) == fused
    for rounded, exact in zip(found, wanted, strict=True):
        assert (rounded.double() - exact).norm() < 0.01 * exact.norm()


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 4, 8)
    weights = dot_product_attention(query, key, key, need_weights=True).weights
    assert weights is not None
    # With the unit vectors as values, the context is the weights.
    many = dot_product_attention(
        query.expand(20_000, 1, 1, 8), key.expand(20_000, 1, 4, 8), torch.eye(4).expand(20_000, 1, 4, 4), dropout=0.3
    ).context
    torch.testing.assert_close((many == 0).float().mean(0), torch.full((1, 1, 4), 0.3), rtol=0, atol=0.02)
    torch.testing.assert_close(many.mean(0), weights[0], rtol=0.05, atol=0)


@both_paths
@pytest.mark.parametrize("key_heads", [1, 2, 6])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("use", ["open", "masked", "by head", "biased", "causal"])
def test_query_heads_share_key_heads(need_weights: bool, key_heads: int, queries: int, use: str) -> None:
    """Query head n attends to key head n // (N / N_kv)."""
    query, key, value = (
        torch.randn(2, heads, length, size, dtype=torch.float64, requires_grad=True)
        for heads, length, size in ((6, queries, 4), (key_heads, 5, 4), (key_heads, 5, 3))
    )
    mask = {"masked": torch.rand(2, 1, queries, 5) > 0.3, "by head": torch.rand(2, 6, queries, 5) > 0.3}.get(use)
    bias = torch.randn(6, queries, 5, dtype=torch.float64) if use == "biased" else None
    copies = [torch.stack([x[:, head // (6 // key_heads)] for head in range(6)], dim=1) for x in (key, value)]
    allowed = causal_mask(queries, 5) if use == "causal" else mask
    context, weights = attention(query, copies[0], copies[1], allowed, bias, 0.5)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = dot_product_attention(
                query, key, value, mask, score_bias=bias, causal=use == "causal", need_weights=need_weights
            )
        torch.testing.assert_close(found.context, context)
        if need_weights:
            torch.testing.assert_close(found.weights, weights)
        if grad:
            gradients = torch.autograd.grad(found.context.square().sum(), (query, key, value))
            wanted = torch.autograd.grad(context.square().sum(), (query, key, value))
            torch.testing.assert_close(gradients, wanted)


SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], str]] = {
    "keys and values": ((2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 9, 8), "key and value in heads and length"),
    "one value": ((2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 1, 8), "key and value in heads and length"),
    "heads of values": ((2, 4, 3, 8), (2, 4, 5, 8), (2, 1, 5, 8), "key and value in heads and length"),
    "batch of values": ((2, 4, 3, 8), (2, 4, 5, 8), (1, 4, 5, 8), "must agree: in B"),
    "batch of keys": ((2, 4, 3, 8), (1, 4, 5, 8), (1, 4, 5, 8), "must agree: in B"),
    "batch of queries": ((1, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 8), "must agree: in B"),
    "features": ((2, 4, 3, 8), (2, 4, 5, 7), (2, 4, 5, 7), "query and key in features"),
    "one feature": ((2, 4, 3, 8), (2, 4, 5, 1), (2, 4, 5, 8), "query and key in features"),
    "heads": ((2, 4, 3, 8), (2, 3, 5, 8), (2, 3, 5, 8), "the 3 heads of the keys must divide the 4 heads"),
    "more key heads": ((2, 2, 3, 8), (2, 4, 5, 8), (2, 4, 5, 8), "the 4 heads of the keys must divide the 2 heads"),
    "no key heads": ((2, 2, 3, 8), (2, 0, 5, 8), (2, 0, 5, 8), "the 0 heads of the keys must divide"),
    "three dimensions": ((4, 3, 8), (4, 5, 8), (4, 5, 8), r"must have shape \(B, N, T, D\)"),
    "five dimensions": ((1, 2, 4, 3, 8), (1, 2, 4, 5, 8), (1, 2, 4, 5, 8), r"must have shape \(B, N, T, D\)"),
}


@both_paths
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(("query", "key", "value", "message"), SHAPES.values(), ids=SHAPES)
def test_refuses_shapes_that_do_not_fit(
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    message: str,
    grad: bool,
    need_weights: bool,
) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=message):
        dot_product_attention(torch.randn(query), torch.randn(key), torch.randn(value), need_weights=need_weights)


@both_paths
@pytest.mark.parametrize("shape", [(3, 3, 5), (2, 3, 3, 5), (4, 3, 4), (3, 4, 3, 5), (1, 2, 4, 3, 5), (2, 5)], ids=str)
@pytest.mark.parametrize("name", ["mask", "score_bias"])
def test_refuses_a_mask_or_bias_that_does_not_broadcast(name: str, shape: tuple[int, ...], need_weights: bool) -> None:
    query, key = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 5, 8)
    given: dict[str, Tensor] = {name: torch.ones(shape, dtype=torch.bool if name == "mask" else torch.float32)}
    with pytest.raises(ValueError, match=rf"{name} has shape .*, which does not broadcast to \(2, 4, 3, 5\)"):
        dot_product_attention(query, key, key, need_weights=need_weights, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 3), (2, 2), (1, 2, 3), (2, 1, 1)], ids=str)
def test_masked_softmax_refuses_a_mask_that_does_not_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"mask has shape .*, which does not broadcast to \(2, 3\)"):
        masked_softmax(torch.randn(2, 3), torch.ones(shape, dtype=torch.bool))
