import copy
import math
from collections.abc import Callable
from typing import cast

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention_blocks import ALiBi, MultiHeadAttention, RotaryPosition, causal_mask, padding_mask


def same_weights(block: MultiHeadAttention) -> nn.MultiheadAttention:
    """torch's block with our weights."""
    theirs = nn.MultiheadAttention(
        block.query_dim,
        block.num_heads,
        bias=block.query_proj.bias is not None,
        kdim=block.key_dim,
        vdim=block.value_proj.in_features,
        batch_first=True,
        dtype=torch.float64,
    )
    maps = [block.query_proj, block.key_proj, block.value_proj]
    with torch.no_grad():
        if block.query_dim == block.key_dim == theirs.vdim:
            theirs.in_proj_weight.copy_(torch.cat([linear.weight for linear in maps]))
        else:
            for name, linear in zip(("q", "k", "v"), maps, strict=True):
                getattr(theirs, f"{name}_proj_weight").copy_(linear.weight)
        if theirs.in_proj_bias is not None:
            theirs.in_proj_bias.copy_(torch.cat([linear.bias for linear in maps]))
    theirs.out_proj.load_state_dict(block.out_proj.state_dict())
    return theirs


def drawn(block: MultiHeadAttention) -> MultiHeadAttention:
    """In float64, with biases that are not zero."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block.double()


def heads_of(block: MultiHeadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The projections as (B, T, heads, head_dim), split by explicit strides."""
    maps = ((block.query_proj, query), (block.key_proj, key), (block.value_proj, key))
    q, k, v = (linear(x).view(*x.shape[:2], -1, block.head_dim) for linear, x in maps)
    return q, k, v


@pytest.mark.parametrize("sizes", [(16, 16, 16), (16, 12, 12), (16, 12, 10)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch(sizes: tuple[int, int, int], bias: bool) -> None:
    query_dim, key_dim, value_dim = sizes
    block = drawn(MultiHeadAttention(query_dim, key_dim, num_heads=4, value_dim=value_dim, bias=bias))
    theirs = same_weights(block)
    query, key, value = (
        torch.randn(3, length, size, dtype=torch.float64, requires_grad=True)
        for length, size in ((4, query_dim), (6, key_dim), (6, value_dim))
    )
    padding, holes = padding_mask(torch.tensor([6, 3, 1])), torch.rand(4, 6) > 0.3
    holes[:, 0] = True
    found = block(query, key, value, padding & holes, need_weights=True)
    context, weights = theirs(
        query, key, value, key_padding_mask=~padding.squeeze(1), attn_mask=~holes, average_attn_weights=False
    )
    torch.testing.assert_close(found.context, context)
    torch.testing.assert_close(found.weights, weights)
    torch.testing.assert_close(block(query, key, value, padding & holes).context, context)
    ours = torch.autograd.grad(found.context.square().sum(), (query, key, value))
    torch.testing.assert_close(ours, torch.autograd.grad(context.square().sum(), (query, key, value)))


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_timm(qk_norm: bool, need_weights: bool) -> None:
    theirs = timm.layers.Attention(16, 4, qkv_bias=True, qk_norm=qk_norm, norm_layer=nn.LayerNorm).double()
    block = MultiHeadAttention(16, num_heads=4, norm=nn.LayerNorm if qk_norm else None).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
        linears = (block.query_proj, block.key_proj, block.value_proj)
        parts = zip(linears, theirs.qkv.weight.chunk(3), theirs.qkv.bias.chunk(3), strict=True)
        for linear, weight, bias in parts:
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
    block.out_proj.load_state_dict(theirs.proj.state_dict())
    if block.query_norm is not None and block.key_norm is not None:
        block.query_norm.load_state_dict(theirs.q_norm.state_dict())
        block.key_norm.load_state_dict(theirs.k_norm.state_dict())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(block(x, x, need_weights=need_weights).context, theirs(x))


@pytest.mark.parametrize("num_kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize("need_weights", [False, True])
def test_grouped_heads_by_loops(num_kv_heads: int, need_weights: bool) -> None:
    block = drawn(MultiHeadAttention(12, 10, num_heads=6, num_kv_heads=num_kv_heads))
    query, key = torch.randn(2, 3, 12, dtype=torch.float64), torch.randn(2, 4, 10, dtype=torch.float64)
    q, k, v = heads_of(block, query, key)
    assert k.size(2) == v.size(2) == num_kv_heads
    per_head = []
    for head in range(6):
        shared = head // (6 // num_kv_heads)
        scores = torch.einsum("bqd,bkd->bqk", q[:, :, head], k[:, :, shared]) / math.sqrt(2)
        exp = scores.exp()
        per_head.append(torch.einsum("bqk,bkd->bqd", exp / exp.sum(-1, keepdim=True), v[:, :, shared]))
    wanted = block.out_proj(torch.cat(per_head, dim=-1))
    torch.testing.assert_close(block(query, key, need_weights=need_weights).context, wanted)


def test_grouped_heads_equal_copied_heads() -> None:
    grouped = drawn(MultiHeadAttention(12, num_heads=6, num_kv_heads=2))
    full = drawn(MultiHeadAttention(12, num_heads=6))
    state = copy.deepcopy(grouped.state_dict())
    for name in ("key_proj", "value_proj"):
        for part in ("weight", "bias"):
            tensor = state[f"{name}.{part}"]
            state[f"{name}.{part}"] = torch.cat([head for head in tensor.chunk(2) for _ in range(3)])
    full.load_state_dict(state)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.testing.assert_close(grouped(x, x, need_weights=True), full(x, x, need_weights=True))
    assert grouped.project(x).key.shape == (2, 2, 5, 2)


def test_heads_equal_scaled_dot_product_attention() -> None:
    block = drawn(MultiHeadAttention(16, num_heads=2, head_dim=5))
    query, key = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 4, 16, dtype=torch.float64)
    q, k, v = (heads.transpose(1, 2) for heads in heads_of(block, query, key))
    mask = torch.rand(2, 3, 4) > 0.3
    mask[..., 0] = True
    context = F.scaled_dot_product_attention(q, k, v, mask[:, None]).transpose(1, 2).reshape(2, 3, 10)
    torch.testing.assert_close(block(query, key, mask=mask).context, block.out_proj(context))


class Ramp(nn.Module):
    """A score bias for this test: head · query · 0.1 - key."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.devices: list[torch.device | None] = []

    def forward(
        self, query_length: int, key_length: int, *, offset: int = 0, device: torch.device | None = None
    ) -> Tensor:
        self.devices.append(device)
        heads = torch.arange(self.num_heads, device=device)[:, None, None]
        queries = torch.arange(query_length, device=device)[:, None] + offset
        return heads * queries * 0.1 - torch.arange(key_length, device=device)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_score_bias_is_added_before_the_softmax(need_weights: bool, masked: bool) -> None:
    block = drawn(MultiHeadAttention(16, num_heads=4, score_bias=Ramp))
    query, key = torch.randn(2, 3, 16, dtype=torch.float64), torch.randn(2, 5, 16, dtype=torch.float64)
    mask = causal_mask(3, 5, offset=2) if masked else torch.ones(3, 5, dtype=torch.bool)
    q, k, v = heads_of(block, query, key)
    scores = torch.einsum("bqnd,bknd->bnqk", q, k) / 2
    for head in range(4):
        for i in range(3):
            for j in range(5):
                scores[:, head, i, j] += head * (i + 2) * 0.1 - j if mask[i, j] else -math.inf
    context = torch.einsum("bnqk,bknd->bqnd", scores.softmax(-1), v).flatten(2)
    memory = block.project(key)
    found = block.attend(query, memory, mask if masked else None, need_weights=need_weights, offset=2)
    torch.testing.assert_close(found.context, block.out_proj(context))
    assert isinstance(block.score_bias, Ramp)
    assert block.score_bias.devices == [query.device]


def test_a_score_bias_is_created_on_the_device_of_the_queries() -> None:
    with torch.device("meta"):
        block = MultiHeadAttention(16, num_heads=4, score_bias=Ramp)
        x = torch.randn(2, 3, 16)
    assert block(x, x).context.is_meta
    assert isinstance(block.score_bias, Ramp)
    assert block.score_bias.devices == [torch.device("meta")]


def test_alibi_and_rotary_follow_their_equations() -> None:
    block = drawn(MultiHeadAttention(8, num_heads=2, rotary=RotaryPosition, score_bias=ALiBi))
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    q, k, v = heads_of(block, x, x)
    # A pair of features is a complex number; position t rotates it by t · base^(-pair / pairs) radians.
    speed = torch.tensor([1.0, 0.01], dtype=torch.float64)
    turn = torch.polar(torch.ones(5, 2, dtype=torch.float64), torch.arange(5)[:, None] * speed)[:, None]
    q, k = (torch.complex(heads[..., :2], heads[..., 2:]) * turn for heads in (q, k))
    scores = torch.einsum("bqnd,bknd->bnqk", q, k.conj()).real / 2
    distance = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    scores = scores - torch.tensor([2**-4, 2**-8], dtype=torch.float64)[:, None, None] * distance
    wanted = block.out_proj(torch.einsum("bnqk,bknd->bqnd", scores.softmax(-1), v).flatten(2))
    torch.testing.assert_close(block(x, x).context, wanted)
    torch.testing.assert_close(block(x, x, need_weights=True).context, wanted)


def _shows_its_weights(dropout: float, keys: int) -> MultiHeadAttention:
    """One head whose values are one-hot, so that the context is the attention map after dropout."""
    block = MultiHeadAttention(keys, num_heads=1, dropout=dropout, bias=False)
    with torch.no_grad():
        for linear in (block.value_proj, block.out_proj):
            linear.weight.copy_(torch.eye(keys))
    return block


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout_drops_the_fraction_of_weights_and_keeps_the_mean(need_weights: bool) -> None:
    block = _shows_its_weights(0.25, 50).train()
    key, query = torch.eye(50).expand(40, -1, -1), torch.randn(40, 10, 50)
    applied = block(query, key, need_weights=need_weights).context
    weights = block(query, key, need_weights=True).weights.squeeze(1)
    torch.testing.assert_close(weights.sum(-1), torch.ones(40, 10))
    kept = applied != 0
    # 20,000 draws: the share's deviation is 0.003.
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.015)
    torch.testing.assert_close(applied[kept], weights[kept] / 0.75)
    assert not torch.equal(kept, block(query, key, need_weights=need_weights).context != 0)
    torch.testing.assert_close(block.eval()(query, key, need_weights=need_weights).context, weights)


def test_a_shared_module_is_shared() -> None:
    shared = ALiBi(4)
    blocks = [MultiHeadAttention(16, num_heads=4, score_bias=lambda _: shared) for _ in range(2)]
    assert blocks[0].score_bias is blocks[1].score_bias


def test_starts_with_xavier_uniform_weights() -> None:
    block = MultiHeadAttention(64, 32, num_heads=4, num_kv_heads=1)
    for linear in (block.query_proj, block.key_proj, block.value_proj, block.out_proj):
        bound = math.sqrt(6 / (linear.in_features + linear.out_features))
        assert linear.weight.abs().max().item() <= bound
        assert linear.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert not cast(Tensor, linear.bias).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, r"num_heads \(3\) must divide query_dim \(16\); choose a divisor or pass head_dim"),
        ({"num_heads": 0}, "num_heads must be 1 or more, got 0"),
        ({"num_heads": 4, "num_kv_heads": 3}, r"num_kv_heads \(3\) must be a divisor of num_heads \(4\)"),
        ({"num_heads": 4, "num_kv_heads": 0}, r"num_kv_heads \(0\) must be a divisor"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"head_dim": 0}, "head_dim must be a positive feature size, got 0"),
        ({"value_dim": -1}, "value_dim must be a positive feature size, got -1"),
        ({"num_heads": 16, "rotary": RotaryPosition}, "head_dim must be positive and even"),
    ],
    ids=str,
)
def test_refuses_sizes_that_do_not_fit(arguments: dict[str, object], message: str) -> None:
    build: Callable[..., MultiHeadAttention] = MultiHeadAttention
    with pytest.raises(ValueError, match=message):
        build(16, **arguments)


def test_prints_its_heads() -> None:
    assert "num_heads=4, num_kv_heads=2, head_dim=4" in repr(MultiHeadAttention(16, num_heads=4, num_kv_heads=2))


@pytest.mark.parametrize("num_kv_heads", [1, 2])
@pytest.mark.parametrize("need_weights", [False, True])
def test_one_query_of_grouped_heads_equals_the_same_among_others(num_kv_heads: int, need_weights: bool) -> None:
    attention = MultiHeadAttention(8, num_heads=4, num_kv_heads=num_kv_heads, score_bias=ALiBi)
    query, key = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.rand(2, 3, 5) > 0.3
    together = attention(query, key, mask=mask, need_weights=True)
    memory = attention.project(key)
    for position in range(3):
        row = mask[:, position : position + 1]
        alone = attention.attend(
            query[:, position : position + 1], memory, row, need_weights=need_weights, offset=position
        )
        torch.testing.assert_close(alone.context, together.context[:, position : position + 1])
        if need_weights:
            torch.testing.assert_close(alone.weights, together.weights[:, :, position : position + 1])


def test_no_keys_give_a_zero_context() -> None:
    attention = MultiHeadAttention(8, num_heads=2)
    nn.init.ones_(attention.out_proj.bias)
    for need_weights in (False, True):
        output = attention(torch.randn(2, 3, 8), torch.randn(2, 0, 8), need_weights=need_weights)
        assert torch.equal(output.context, torch.zeros(2, 3, 8))


def _by_the_formula(
    block: MultiHeadAttention, query: Tensor, key: Tensor, mask: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Context and weights under a mask for each head, one head at a time; rows that are empty have zero weights."""
    q, k, v = heads_of(block, query, key)
    mask = mask.expand(query.size(0), block.num_heads, query.size(1), key.size(1))
    group = block.num_heads // block.num_kv_heads
    contexts, maps = [], []
    for head in range(block.num_heads):
        scores = torch.einsum("bqd,bkd->bqk", q[:, :, head], k[:, :, head // group]) / math.sqrt(block.head_dim)
        scores = scores if bias is None else scores + bias[head]
        exp = scores.exp() * mask[:, head]
        maps.append(exp / exp.sum(-1, keepdim=True).clamp(min=1e-300))
        contexts.append(maps[-1] @ v[:, :, head // group])
    context = block.out_proj(torch.cat(contexts, dim=-1))
    some = mask.any(3).any(1)  # (B, T_q)
    return context * some.unsqueeze(-1), torch.stack(maps, dim=1)


MASK_SHAPES = [(2, 4, 3, 5), (1, 4, 3, 5), (2, 4, 1, 5), (1, 4, 1, 5), (2, 1, 3, 5), (2, 4, 3, 1), (1, 1, 1, 5)]


def _holes(shape: tuple[int, ...]) -> Tensor:
    """With one row empty in one head, and one in all heads."""
    mask = torch.rand(shape) > 0.4
    if shape[2] > 1:
        mask[-1, 0, 1] = False
        mask[0, :, 2] = False
    return mask


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_mask_for_each_head_follows_the_formula(
    shape: tuple[int, ...], num_kv_heads: int, need_weights: bool
) -> None:
    block = drawn(MultiHeadAttention(16, 12, num_heads=4, num_kv_heads=num_kv_heads))
    query = torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)
    mask = _holes(shape)
    context, weights = _by_the_formula(block, query, key, mask)
    for found in (
        block(query, key, mask=mask, need_weights=need_weights),
        block.attend(query, block.project(key), mask, need_weights=need_weights),
        block(query, block.project(key), mask=mask, need_weights=need_weights),
    ):
        torch.testing.assert_close(found.context, context)
        if need_weights:
            torch.testing.assert_close(found.weights, weights)
        upstream = torch.randn_like(context)
        leaves = [query, key, *block.parameters()]
        torch.testing.assert_close(
            torch.autograd.grad(found.context, leaves, upstream, retain_graph=True),
            torch.autograd.grad(context, leaves, upstream, retain_graph=True),
        )
    with torch.no_grad():
        torch.testing.assert_close(block(query, key, mask=mask, need_weights=need_weights).context, context)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_a_mask_for_each_head_of_one_query(num_kv_heads: int, grad: bool, need_weights: bool) -> None:
    block = drawn(MultiHeadAttention(16, num_heads=4, num_kv_heads=num_kv_heads, score_bias=ALiBi))
    query, key = torch.randn(3, 1, 16, dtype=torch.float64), torch.randn(3, 5, 16, dtype=torch.float64)
    mask = torch.rand(3, 4, 1, 5) > 0.4
    mask[0, 2], mask[1] = False, False
    bias = ALiBi(4)(1, 5, offset=4)
    context, weights = _by_the_formula(block, query, key, mask, bias)
    with torch.set_grad_enabled(grad):
        for given in (mask, mask[..., :1] & mask, mask[2:]):
            rows = slice(2, 3) if len(given) == 1 else slice(0, 3)
            memory = block.project(key[rows])
            found = block.attend(query[rows], memory, given, need_weights=need_weights, offset=4)
            if given is mask or len(given) == 1:
                torch.testing.assert_close(found.context, context[rows])
                if need_weights:
                    torch.testing.assert_close(found.weights, weights[rows])
            else:
                wanted, _ = _by_the_formula(block, query, key, given, bias)
                torch.testing.assert_close(found.context, wanted)


@pytest.mark.parametrize("need_weights", [False, True])
def test_empty_rows_of_some_heads_and_of_all(need_weights: bool) -> None:
    block = MultiHeadAttention(8, num_heads=2)
    nn.init.ones_(block.out_proj.bias)
    x = torch.randn(1, 3, 8, requires_grad=True)
    mask = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    mask[0, 0, 0] = False  # of one head
    mask[0, :, 1] = False  # of both heads
    found = block(x, x, mask=mask, need_weights=need_weights)
    assert found.context.isfinite().all()
    assert not found.context[0, 1].any(), "no bias of out_proj"
    assert found.context[0, 0].any()
    # The context of the empty head is zero: that of the other alone goes through out_proj.
    value = block.value_proj(x)[0].view(3, 2, 4)
    other = (block(x, x, need_weights=True).weights[0, 1, 0] @ value[:, 1]).view(1, 4)
    torch.testing.assert_close(found.context[0, :1], other @ block.out_proj.weight[:, 4:].mT + 1)
    if need_weights:
        assert not found.weights[0, 0, 0].any()
        assert not found.weights[0, :, 1].any()
        torch.testing.assert_close(found.weights.sum(-1)[0], torch.tensor([[0.0, 0, 1], [1, 0, 1]]))
    [gradient] = torch.autograd.grad(found.context[0, 1].sum(), x)
    assert not gradient.any()


def test_a_mask_for_each_head_that_is_the_same_for_all() -> None:
    block, x = drawn(MultiHeadAttention(16, num_heads=4)), torch.randn(2, 5, 16, dtype=torch.float64)
    mask = torch.rand(2, 5, 5) > 0.4
    for need_weights in (False, True):
        found = block(x, x, mask=mask[:, None], need_weights=need_weights)
        torch.testing.assert_close(found, block(x, x, mask=mask, need_weights=need_weights))


@pytest.mark.parametrize("shape", [(2, 3, 3, 5), (2, 4, 5, 3), (3, 4, 3, 5), (2, 4, 3, 4), (1, 2, 4, 3, 5)], ids=str)
def test_refuses_a_mask_for_other_heads(shape: tuple[int, ...]) -> None:
    block, query, key = MultiHeadAttention(16, num_heads=4), torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    mask = torch.ones(shape, dtype=torch.bool)
    for door in (block, block.attend, block.attend_beams):
        with pytest.raises(ValueError, match=r"does not broadcast to \(B, .*T_q, T_k\)"):
            door(query, block.project(key), mask=mask)
    with pytest.raises(TypeError, match="mask must be boolean"):
        block(query, key, mask=torch.ones(2, 4, 3, 5))


@pytest.mark.slow
def test_a_mask_for_each_head_compiles_and_exports() -> None:
    torch._dynamo.reset()

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = drawn(MultiHeadAttention(16, num_heads=4, num_kv_heads=2))

        def forward(self, query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
            return cast(Tensor, self.block(query, key, mask=mask).context)

    def arguments(batch: int, queries: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
        query, key = (torch.randn(batch, length, 16, dtype=torch.float64) for length in (queries, keys))
        return query, key, torch.rand(batch, 4, queries, keys) > 0.3

    module, given = Masked(), arguments(2, 3, 5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), module(*given))
    batch, queries, keys = (torch.export.Dim(name, max=64) for name in ("batch", "queries", "keys"))
    shapes = ({0: batch, 1: queries}, {0: batch, 1: keys}, {0: batch, 2: queries, 3: keys})
    program = torch.export.export(module, given, dynamic_shapes=shapes).module()
    given = arguments(4, 7, 2)
    torch.testing.assert_close(program(*given), module(*given))
