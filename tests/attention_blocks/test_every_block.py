"""The contract of sequence attention, applied to every public block: a new block is tested by existing."""

from __future__ import annotations

import copy
import inspect
import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

import attention_blocks
from attention_blocks import (
    AdditiveAttention,
    ALiBi,
    Attention,
    AttentionOutput,
    CrossAttention,
    DotProductAttention,
    LuongAttention,
    MaskedSelfAttention,
    Memory,
    MultiHeadAttention,
    RelativePositionBias,
    RotaryPosition,
    SelfAttention,
    causal_mask,
    masked_softmax,
    padding_mask,
)
from tests.marks import slow_except

B, T_Q, T_K, D = 2, 3, 5, 16


class KernelAttention(Attention):
    """A user's own block, as described in the docstring of Attention: exp(-|q - k|²), normalised."""

    def __init__(self, query_dim: int, key_dim: int | None = None) -> None:
        super().__init__(query_dim, key_dim)
        if self.key_dim != query_dim:
            raise ValueError(f"key_dim ({key_dim}) must equal query_dim ({query_dim})")

    def project(self, key: Tensor, value: Tensor | None = None, *, offset: int = 0) -> Memory:
        return Memory(key, key if value is None else value)

    def attend(
        self,
        query: Tensor,
        memory: Memory,
        mask: Tensor | None = None,
        *,
        need_weights: bool = False,
        offset: int = 0,
    ) -> AttentionOutput:
        distance = (query.unsqueeze(2) - memory.key.unsqueeze(1)).square().sum(-1)
        weights = masked_softmax(-distance, mask)
        return AttentionOutput(weights.to(memory.value.dtype) @ memory.value, weights if need_weights else None)


@dataclass(frozen=True)
class Variant:
    """One way to build a block, and its limitations.

    Attributes:
        name: part of the test id; a class is tested with its defaults unless a variant has the same name.
        make: called as ``make(query_dim, key_dim)``.
        ordered_keys: the position of a key in the sequence matters.
        ordered_queries: the position of a query in the sequence matters.
        normalised: rows of the attention map sum to 1.
        same_size: queries and keys must have the same size.
        traced: also compile and export it, which is slow; False if another variant has the same operations.
    """

    name: str
    make: Callable[[int, int], Attention]
    ordered_keys: bool = False
    ordered_queries: bool = False
    normalised: bool = True
    same_size: bool = False
    traced: bool = True

    def build(self, dtype: torch.dtype = torch.float64) -> Attention:
        """The block in eval mode, every parameter random, so that no zero bias hides an error."""
        block = self.make(D, D).to(dtype).eval()
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.normal_(std=0.5)
        return block


def _luong(score: str, window: str) -> Variant:
    return Variant(
        f"Luong-{score}-{window}",
        partial(LuongAttention, score=score, window=window, radius=2),  # type: ignore[arg-type]
        ordered_keys=window != "global",
        ordered_queries=window == "local-m",
        normalised=window != "local-p",
        same_size=score == "dot",
        traced=score == "general" or window == "global",
    )


def _heads(
    name: str, block: Callable[..., Attention] = MultiHeadAttention, /, *, traced: bool = True, **arguments: object
) -> Variant:
    ordered = block is MaskedSelfAttention or "rotary" in arguments or "score_bias" in arguments
    make = partial(block, num_heads=4, **arguments)
    return Variant(name, make, ordered_keys=ordered, ordered_queries=ordered, traced=traced)


TABLE = [
    Variant("KernelAttention", KernelAttention, same_size=True),
    Variant("DotProduct-plain", partial(DotProductAttention, similarity="plain"), same_size=True, traced=False),
    Variant("DotProduct-cosine", partial(DotProductAttention, similarity="cosine", scale=5.0), same_size=True),
    Variant("DotProductAttention", DotProductAttention, same_size=True),
    Variant("Additive-narrow", partial(AdditiveAttention, hidden_dim=3), traced=False),
    *(_luong(score, window) for score in ("dot", "general", "concat") for window in ("global", "local-m", "local-p")),
    _heads("MultiHead-grouped", num_kv_heads=2),
    _heads("MultiHead-query", num_kv_heads=1, bias=False, traced=False),
    _heads("MultiHead-norm", norm=nn.LayerNorm),
    _heads("MultiHead-wide", head_dim=6, traced=False),
    _heads("MultiHead-rotary", rotary=RotaryPosition),
    _heads("MultiHead-alibi", score_bias=ALiBi),
    _heads("MultiHead-relative", score_bias=RelativePositionBias),
    _heads("MultiHead-all", num_kv_heads=2, norm=nn.LayerNorm, rotary=RotaryPosition, score_bias=RelativePositionBias),
    _heads("MaskedSelfAttention", MaskedSelfAttention),
    _heads("MaskedSelf-window", MaskedSelfAttention, window=2),
    _heads("MaskedSelf-rotary-grouped", MaskedSelfAttention, rotary=RotaryPosition, num_kv_heads=2),
    _heads("MaskedSelf-alibi-window", MaskedSelfAttention, score_bias=ALiBi, window=3),
    _heads("SelfAttention", SelfAttention),
    _heads("CrossAttention", CrossAttention),
]


def _public_modules() -> list[type[nn.Module]]:
    public = (getattr(attention_blocks, name) for name in attention_blocks.__all__)
    return [thing for thing in public if inspect.isclass(thing) and issubclass(thing, nn.Module)]


def _variants() -> list[Variant]:
    named = {variant.name for variant in TABLE}
    blocks = [c for c in _public_modules() if issubclass(c, Attention) and c is not Attention]
    return TABLE + [Variant(block.__name__, block) for block in blocks if block.__name__ not in named]


VARIANTS = _variants()
every_traced_variant = pytest.mark.parametrize(
    "variant", slow_except("DotProductAttention", {variant.name: variant for variant in VARIANTS if variant.traced})
)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
both_paths = pytest.mark.parametrize("need_weights", [False, True], ids=["fused", "explicit"])


def _sequences(
    dtype: torch.dtype = torch.float64, *, batch: int = B, queries: int = T_Q, keys: int = T_K, grad: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (torch.randn(batch, length, D, dtype=dtype) for length in (queries, keys, keys))
    return query.requires_grad_(grad), key.requires_grad_(grad), value.requires_grad_(grad)


def _mask() -> Tensor:
    """(B, T_q, T_k), with a query of the first row without keys, and a key of the second row without queries."""
    mask = torch.tensor(
        [[[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 1, 1, 0]], [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 1, 1, 1, 0]]]
    )
    return mask.bool()


def _gradients(block: Attention, output: AttentionOutput, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    leaves = [*inputs, *block.parameters()]
    # An uneven sum, so that errors of opposite sign do not cancel.
    uneven = torch.linspace(0.5, 1.5, output.context.numel(), device=output.context.device)
    loss = (output.context * uneven.view_as(output.context)).sum()
    return list(torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True))


def _weights(output: AttentionOutput) -> Tensor:
    assert output.weights is not None
    return output.weights


@every_variant
@both_paths
@pytest.mark.parametrize(("queries", "keys"), [(T_Q, T_K), (4, 4), (5, 2), (1, 1)])
def test_shapes(variant: Variant, need_weights: bool, queries: int, keys: int) -> None:
    block, (query, key, value) = variant.build(), _sequences(queries=queries, keys=keys)
    for given in (None, value):
        context, weights = block(query, key, given, need_weights=need_weights)
        assert context.shape == (B, queries, block.context_dim)
        assert context.dtype == query.dtype
        if need_weights:
            assert (weights.size(0), *weights.shape[-2:]) == (B, queries, keys)
            assert weights.ndim in (3, 4)
        else:
            assert weights is None


@every_variant
@both_paths
def test_shapes_are_known_without_data(variant: Variant, need_weights: bool) -> None:
    with torch.device("meta"):
        block, (query, key, value) = variant.make(D, D), _sequences(torch.float32)
    found = block(query, key, value, _mask().to("meta"), need_weights=need_weights)
    assert found.context.is_meta
    assert found.context.shape == (B, T_Q, block.context_dim)


@every_variant
def test_values_default_to_the_keys(variant: Variant) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    torch.testing.assert_close(block(query, key).context, block(query, key, key).context)
    assert not torch.allclose(block(query, key).context, block(query, key, value).context)


@every_variant
def test_different_sizes_of_query_and_key_are_supported_or_refused(variant: Variant) -> None:
    if variant.same_size:
        with pytest.raises(ValueError, match=r"key_dim \(32\) must equal query_dim \(16\)"):
            variant.make(D, 2 * D)
        return
    block, (query, _, _) = variant.make(D, 2 * D).double(), _sequences()
    context = block(query, torch.randn(B, T_K, 2 * D, dtype=torch.float64)).context
    assert context.shape == (B, T_Q, block.context_dim)


@every_variant
@both_paths
@pytest.mark.parametrize(
    "shape",
    [(), (T_K,), (T_Q, 1), (T_Q, T_K), (1, T_K), (1, T_Q, T_K), (B, 1, T_K), (B, T_Q, 1), (B, 1, 1), (B, T_Q, T_K)],
    ids=str,
)
def test_every_form_of_mask(variant: Variant, need_weights: bool, shape: tuple[int, ...]) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    mask = torch.rand(shape) > 0.4
    found = block(query, key, value, mask, need_weights=need_weights)
    wanted = block(query, key, value, mask.expand(B, T_Q, T_K), need_weights=need_weights)
    torch.testing.assert_close(found, wanted)


@every_variant
@both_paths
def test_no_mask_equals_a_mask_that_allows_everything(variant: Variant, need_weights: bool) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    found = block(query, key, value, need_weights=need_weights)
    everything = torch.ones(B, T_Q, T_K, dtype=torch.bool)
    torch.testing.assert_close(found, block(query, key, value, everything, need_weights=need_weights))


@every_variant
@both_paths
def test_masked_keys_have_no_influence(variant: Variant, need_weights: bool) -> None:
    block, (query, key, value) = variant.build(), _sequences(grad=True)
    mask = _mask() & torch.tensor([True, True, True, True, False])
    output = block(query, key, value, mask, need_weights=need_weights)
    other_key, other_value = key.detach().clone(), value.detach().clone()
    other_key[:, -1], other_value[:, -1] = 7.0, -7.0
    torch.testing.assert_close(output, block(query, other_key, other_value, mask, need_weights=need_weights))
    _, key_gradient, value_gradient = torch.autograd.grad(
        output.context.sum(), (query, key, value), allow_unused=True, materialize_grads=True
    )
    assert not key_gradient[:, -1].any()
    assert not value_gradient[:, -1].any()
    assert value_gradient[:, 0].any()


@every_variant
@both_paths
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_a_query_that_may_attend_to_nothing(
    variant: Variant, need_weights: bool, dtype: torch.dtype, training: bool
) -> None:
    block, inputs = variant.build(dtype).train(training), _sequences(dtype, grad=True)
    mask = _mask()
    mask[1] = False
    output = block(*inputs, mask, need_weights=need_weights)
    assert output.context.isfinite().all()
    assert not output.context[0, 1].any()
    assert not output.context[1].any()
    assert output.context[0, 0].any()
    gradients = _gradients(block, output, inputs)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not gradients[0][0, 1].any()
    assert not any(gradient[1].any() for gradient in gradients[:3])
    if need_weights:
        rows = _weights(output)
        assert not rows[0, ..., 1, :].any()
        assert not rows[1].any()


@every_variant
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=str)
def test_both_paths_give_the_same_result(variant: Variant, dtype: torch.dtype, tolerance: float, masked: bool) -> None:
    block, inputs = variant.build(dtype), _sequences(dtype, grad=True)
    mask = _mask() if masked else None
    fused, explicit = block(*inputs, mask), block(*inputs, mask, need_weights=True)
    torch.testing.assert_close(fused.context, explicit.context, rtol=tolerance, atol=tolerance)
    for one, other in zip(_gradients(block, fused, inputs), _gradients(block, explicit, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance)


@every_variant
def test_rows_of_the_map(variant: Variant) -> None:
    block, inputs = variant.build(), _sequences()
    weights, mask = _weights(block(*inputs, _mask(), need_weights=True)), _mask()
    mask = mask if weights.ndim == 3 else mask.unsqueeze(1)
    assert (weights >= 0).all()
    assert not weights.masked_select(~mask).any()
    sums = _weights(block(*inputs, need_weights=True)).sum(-1)
    if variant.normalised:
        torch.testing.assert_close(sums, torch.ones_like(sums))
    else:
        assert ((sums > 0) & (sums <= 1)).all()


@every_variant
@both_paths
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(variant: Variant, need_weights: bool, masked: bool) -> None:
    block, inputs = variant.build(), _sequences(grad=True)
    names = [name for name, _ in block.named_parameters()]
    mask = _mask() if masked else None

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, tensors[3:], strict=True))
        arguments = (*tensors[:3], mask)
        output = torch.func.functional_call(block, parameters, arguments, {"need_weights": need_weights})
        return tuple(part for part in output if part is not None)

    assert torch.autograd.gradcheck(run, (*inputs, *block.parameters()), fast_mode=True)


@every_variant
@both_paths
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_is_near_float64(variant: Variant, need_weights: bool, dtype: torch.dtype) -> None:
    block, inputs = variant.build(torch.float32), _sequences(torch.float32, grad=True)
    with torch.autocast("cpu", dtype):
        low = block(*inputs, _mask(), need_weights=need_weights)
    low_gradients = _gradients(block, low, inputs)
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    exact = block.double()(*wide, _mask(), need_weights=need_weights)
    pairs = zip((low.context, *low_gradients), (exact.context, *_gradients(block, exact, wide)), strict=True)
    for found, wanted in pairs:
        tolerance = 16 * torch.finfo(dtype).eps * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)


@every_variant
@both_paths
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_is_near_float64(variant: Variant, need_weights: bool, dtype: torch.dtype | None) -> None:
    block, inputs = variant.build(torch.float32), _sequences(torch.float32, grad=True)
    there = copy.deepcopy(block).cuda()
    moved = tuple(x.detach().cuda().requires_grad_() for x in inputs)
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        low = there(*moved, _mask().cuda(), need_weights=need_weights)
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    exact = block.double()(*wide, _mask(), need_weights=need_weights)
    found = (low.context, *_gradients(there, low, moved))
    for one, wanted in zip(found, (exact.context, *_gradients(block, exact, wide)), strict=True):
        tolerance = 16 * torch.finfo(dtype or torch.float32).eps * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(one.cpu().double(), wanted, rtol=0, atol=max(tolerance, 2e-4))
    assert not low.context[0, 1].any()  # of a query that may attend to nothing


@every_variant
@both_paths
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_scores_beyond_fp16_stay_finite(variant: Variant, need_weights: bool, masked: bool, dtype: torch.dtype) -> None:
    block = variant.build(torch.float32)
    query, key, value = (300 * x for x in _sequences(torch.float32))
    assert ((query @ key.mT).abs() > torch.finfo(torch.float16).max).any()
    with torch.autocast("cpu", dtype):
        output = block(query, key, value, _mask() if masked else None, need_weights=need_weights)
    assert output.context.isfinite().all()
    assert output.weights is None or output.weights.isfinite().all()


@every_variant
@both_paths
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_low_precision(variant: Variant, need_weights: bool, dtype: torch.dtype) -> None:
    block = variant.build(torch.float32)
    query, key, value = _sequences(torch.float32)
    # Padding from an embedding is exactly zero.
    key[:, -1] = 0.0
    exact = block(query, key, value, _mask()).context
    found = block.to(dtype)(query.to(dtype), key.to(dtype), value.to(dtype), _mask(), need_weights=need_weights).context
    assert found.dtype == dtype
    tolerance = 16 * torch.finfo(dtype).eps * max(1.0, exact.abs().max().item())
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=tolerance)


class EveryPath(nn.Module):
    """Calls a block without a mask, with one, and for its weights; returns (three contexts, the attention map)."""

    def __init__(self, block: Attention) -> None:
        super().__init__()
        self.block = block

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        outputs = [
            self.block(query, key, value),
            self.block(query, key, value, mask),
            self.block(query, key, value, mask, need_weights=True),
        ]
        return (*(output.context for output in outputs), outputs[-1].weights)


@every_traced_variant
def test_compiles_without_a_graph_break(variant: Variant) -> None:
    torch._dynamo.reset()
    paths, inputs = EveryPath(variant.build()), _sequences(grad=True)
    found = torch.compile(paths, fullgraph=True, backend="aot_eager")(*inputs, _mask())
    wanted = paths(*inputs, _mask())
    torch.testing.assert_close(found, wanted)
    leaves = (*inputs, *paths.parameters())
    gradients = (torch.autograd.grad(sum(x.square().sum() for x in output), leaves) for output in (found, wanted))
    torch.testing.assert_close(next(gradients), next(gradients))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's own backend needs a C++ compiler")
def test_compiles_to_machine_code() -> None:
    torch._dynamo.reset()
    block, inputs = MultiHeadAttention(D, num_heads=2).eval(), _sequences(torch.float32)
    compiled = torch.compile(block, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs, _mask()), block(*inputs, _mask()))


@every_traced_variant
def test_exports_with_dynamic_sizes(variant: Variant) -> None:
    paths = EveryPath(variant.build())
    batch, queries, keys = Dim("batch", max=64), Dim("queries", max=64), Dim("keys", max=64)
    of_keys = {0: batch, 1: keys}
    shapes = ({0: batch, 1: queries}, of_keys, of_keys, {0: batch, 1: queries, 2: keys})
    program = export(paths, (*_sequences(), _mask()), dynamic_shapes=shapes).module()
    for sizes in ((5, 7, 4), (2, 6, 9)):
        inputs = (*_sequences(batch=sizes[0], queries=sizes[1], keys=sizes[2]), torch.rand(sizes) > 0.3)
        torch.testing.assert_close(program(*inputs), paths(*inputs))


@every_variant
def test_state_survives_a_file(variant: Variant) -> None:
    block, inputs = variant.build(), _sequences()
    file = io.BytesIO()
    torch.save(block.state_dict(), file)
    file.seek(0)
    other = variant.make(D, D).double().eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(*inputs, _mask()), block(*inputs, _mask()), rtol=0, atol=0)


@every_variant
@both_paths
def test_order_of_keys_and_queries(variant: Variant, need_weights: bool) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    mask = _mask()
    wanted = block(query, key, value, mask, need_weights=need_weights).context
    turned = torch.tensor([3, 0, 4, 1, 2])
    found = block(query, key[:, turned], value[:, turned], mask[..., turned], need_weights=need_weights).context
    assert torch.allclose(found, wanted) is not variant.ordered_keys
    turned = torch.tensor([2, 0, 1])
    found = block(query[:, turned], key, value, mask[:, turned], need_weights=need_weights).context
    assert torch.allclose(found, wanted[:, turned]) is not variant.ordered_queries


@every_variant
@both_paths
def test_rows_of_the_batch_are_independent(variant: Variant, need_weights: bool) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    together = block(query, key, value, _mask(), need_weights=need_weights)
    for row in range(B):
        one = slice(row, row + 1)
        alone = block(query[one], key[one], value[one], _mask()[one], need_weights=need_weights)
        torch.testing.assert_close(alone.context, together.context[one])


@every_variant
@both_paths
@pytest.mark.parametrize("mask", [None, _mask()], ids=["open", "masked"])
def test_a_memory_is_attended_to_repeatedly(variant: Variant, need_weights: bool, mask: Tensor | None) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    before = {name: tensor.clone() for name, tensor in block.state_dict().items()}
    whole = block(query, key, value, mask, need_weights=need_weights)
    memory = block.project(key, value)
    torch.testing.assert_close(block.attend(query, memory, mask, need_weights=need_weights), whole)
    for step in range(T_Q):
        one = slice(step, step + 1)
        row = None if mask is None else mask[:, one]
        part = block.attend(query[:, one], memory, row, need_weights=need_weights, offset=step)
        torch.testing.assert_close(part.context, whole.context[:, one])
    torch.testing.assert_close(block.state_dict(), before, rtol=0, atol=0)


@every_variant
def test_memory_is_concatenated_and_its_rows_selected(variant: Variant) -> None:
    block, (query, key, value) = variant.build(), _sequences()
    whole = block.project(key, value)
    joined = block.project(key[:, :2], value[:, :2]).append(block.project(key[:, 2:], value[:, 2:], offset=2))
    torch.testing.assert_close(joined, whole)
    rows = torch.tensor([1, 1, 0])
    chosen = block.attend(query[rows], Memory(whole.key[rows], whole.value[rows]), _mask()[rows])
    torch.testing.assert_close(chosen.context, block(query, key, value, _mask()).context[rows])


@every_variant
@both_paths
def test_supports_an_empty_batch(variant: Variant, need_weights: bool) -> None:
    block, inputs = variant.build(), _sequences(batch=0, queries=T_K)
    mask = torch.ones(0, T_K, T_K, dtype=torch.bool)
    assert block(*inputs, mask, need_weights=need_weights).context.shape == (0, T_K, block.context_dim)


@every_variant
@pytest.mark.parametrize("mask", [torch.zeros(T_Q, T_K), torch.ones(T_Q, T_K, dtype=torch.long)], ids=["float", "int"])
def test_refuses_a_mask_that_is_not_boolean(variant: Variant, mask: Tensor) -> None:
    with pytest.raises(TypeError, match=r"mask must be boolean with True = may attend.*mask == 0"):
        variant.build()(*_sequences(), mask)


@every_variant
@pytest.mark.parametrize("shape", [(T_K, T_Q), (B + 1, 1, T_K), (T_K + 1,), (B, 1, T_Q, T_K)], ids=str)
def test_refuses_a_mask_of_another_shape(variant: Variant, shape: tuple[int, ...]) -> None:
    block = variant.build()
    if len(shape) == 4 and isinstance(block, MultiHeadAttention):
        shape = (B, 3, T_Q, T_K)  # for one head it would fit, for three of four it does not
    with pytest.raises(ValueError, match=r"mask has shape .* does not broadcast to \(B, .*T_q, T_k\) = \(2, .*3, 5\)"):
        block(*_sequences(), torch.ones(shape, dtype=torch.bool))


@every_variant
def test_names_the_missing_dimension_of_the_queries(variant: Variant) -> None:
    with pytest.raises(ValueError, match=r"pass mask\[:, None, :\]"):
        variant.build()(*_sequences(), padding_mask(torch.tensor([3, 5])).squeeze(1))


@every_variant
def test_warns_of_masks_that_look_inverted(variant: Variant) -> None:
    for queries, mask in ((T_Q, ~padding_mask(torch.tensor([T_K, 2]))), (T_K, ~causal_mask(T_K))):
        with pytest.warns(UserWarning, match=r"looks inverted.*pass ~mask"):
            variant.build()(*_sequences(queries=queries), mask)


@every_variant
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("query", ((T_Q, D), (B, T_K, D), (B, T_K, D))),
        ("query", ((B, T_Q, D + 1), (B, T_K, D), (B, T_K, D))),
        ("key", ((B, T_Q, D), (B, D, 4, 4), (B, T_K, D))),
        ("key", ((B, T_Q, D), (B, T_K, D + 1), (B, T_K, D))),
        ("value", ((B, T_Q, D), (B, T_K, D), (T_K, D))),
        ("value", ((B, T_Q, D), (B, T_K, D), (B, T_K + 1, D))),
    ],
    ids=str,
)
def test_refuses_sequences_of_another_shape(variant: Variant, name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    query, key, value = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    with pytest.raises(ValueError, match=rf"{name} must have shape \(B, T_.*got \("):
        variant.build()(query, key, value)


@every_variant
def test_refuses_sizes_that_are_not_positive(variant: Variant) -> None:
    with pytest.raises(ValueError, match="query_dim must be a positive feature size, got 0"):
        variant.make(0, D)


@every_variant
@both_paths
@pytest.mark.parametrize("offset", [0, 3])
def test_the_hypotheses_of_a_beam_are_at_one_position(variant: Variant, need_weights: bool, offset: int) -> None:
    """Each gets the same result in one call as alone; a block without positions declares that."""
    block, (query, key, _) = variant.build(), _sequences()
    memory, mask = block.project(key), _mask()
    together = block.attend_beams(query, memory, mask, need_weights=need_weights, offset=offset)
    for beam in range(T_Q):
        alone = block.attend(
            query[:, beam : beam + 1], memory, mask[:, beam : beam + 1], need_weights=need_weights, offset=offset
        )
        torch.testing.assert_close(together.context[:, beam : beam + 1], alone.context)
        if need_weights:
            torch.testing.assert_close(_weights(together)[..., beam : beam + 1, :], _weights(alone))
    shared = block.attend_beams(query, memory, mask[:, :1], need_weights=need_weights, offset=offset)
    torch.testing.assert_close(shared.context[:, 0], together.context[:, 0])
    if not isinstance(block, KernelAttention):  # a user's own block need not declare it
        assert block.uses_positions is variant.ordered_queries
