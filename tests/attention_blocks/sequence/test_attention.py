from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from attention_blocks import (
    AdditiveAttention,
    Attention,
    AttentionOutput,
    DotProductAttention,
    Memory,
    MultiHeadAttention,
    SelfAttention,
    causal_mask,
    padding_mask,
)
from tests.attention_blocks.test_every_block import (
    T_K,
    T_Q,
    B,
    D,
    KernelAttention,
    Variant,
    both_paths,
    every_traced_variant,
    every_variant,
)
from tests.user_blocks import NearbyAttention


class FirstKey(Attention):
    """Minimal subclass; records its calls."""

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
        return AttentionOutput(memory.value[:, :1].expand(-1, query.size(1), -1), mask)


def test_forward_is_project_then_attend() -> None:
    block = FirstKey(4, 6)
    query, key, value, mask = torch.randn(2, 3, 4), torch.randn(2, 5, 6), torch.randn(2, 5, 7), torch.ones(3, 5).bool()
    assert torch.equal(block(query, key).context, key[:, :1].expand(2, 3, 6))
    context, seen = block(query, key, value, mask)
    assert torch.equal(context, value[:, :1].expand(2, 3, 7))
    assert torch.equal(seen, mask)


def test_the_base_class_names_the_methods_to_define() -> None:
    class Unfinished(Attention):
        pass

    block = Unfinished(4)
    with pytest.raises(NotImplementedError, match=r"Unfinished must define project\(key, value=None, \*, offset=0\)"):
        block(torch.randn(1, 2, 4), torch.randn(1, 3, 4))
    with pytest.raises(
        NotImplementedError, match=r"Unfinished must define attend\(query, memory, mask=None, \*, need_"
    ):
        block.attend(torch.randn(1, 2, 4), Memory(torch.randn(1, 3, 4), torch.randn(1, 3, 4)))


def test_sizes_default_to_one_another() -> None:
    for arguments, sizes in (((8,), (8, 8, 8)), ((8, 6), (8, 6, 6)), ((8, 6, 5), (8, 6, 5))):
        block = Attention(*arguments)
        assert (block.query_dim, block.key_dim, block.context_dim) == sizes


@pytest.mark.parametrize(
    ("arguments", "name"), [((0,), "query_dim"), ((4, -2), "key_dim"), ((4, 4, 0), "context_dim")], ids=str
)
def test_refuses_sizes_that_are_not_positive(arguments: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a positive feature size, got {arguments[-1]}"):
        Attention(*arguments)


@pytest.mark.parametrize("lead", [(2,), (2, 4)], ids=str)
def test_memory_is_concatenated_along_the_positions(lead: tuple[int, ...]) -> None:
    first = Memory(torch.randn(*lead, 3, 5), torch.randn(*lead, 3, 6))
    later = Memory(torch.randn(*lead, 2, 5), torch.randn(*lead, 2, 6))
    joined = first.append(later)
    assert joined.key.shape == (*lead, 5, 5)
    assert torch.equal(joined.key[..., :3, :], first.key)
    assert torch.equal(joined.key[..., 3:, :], later.key)
    assert torch.equal(joined.value[..., :3, :], first.value)
    assert torch.equal(joined.value[..., 3:, :], later.value)


def test_forward_checks_the_mask() -> None:
    query = torch.randn(2, 3, 4)
    with pytest.raises(TypeError, match=r"mask must be boolean"):
        FirstKey(4)(query, query, mask=torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"does not broadcast"):
        FirstKey(4)(query, query, mask=torch.ones(3, 4).bool())
    with pytest.warns(UserWarning, match=r"looks inverted"):
        FirstKey(4)(query, query, mask=torch.ones(3, 3).bool().triu(1))


def test_attend_does_not_check_for_inverted_masks() -> None:
    # Only forward checks whether a mask looks inverted; reading it would slow down a cached step.
    block, query = DotProductAttention(4), torch.randn(2, 3, 4)
    anti_causal = torch.ones(3, 3).bool().triu(1)
    memory = block.project(query)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = block.attend(query, memory, anti_causal), block(query, memory, mask=anti_causal)
    for output in outputs:
        assert not output.context[:, -1].any()
        assert output.context[:, 0].any()


def _memory(block: Attention) -> Memory:
    key, value = torch.randn(2, B, T_K, D, dtype=torch.float64)
    return block.project(key, value)


def _query(batch: int = B, length: int = T_Q) -> Tensor:
    return torch.randn(batch, length, D, dtype=torch.float64)


@every_variant
@both_paths
def test_forward_takes_a_memory_in_place_of_keys(variant: Variant, need_weights: bool) -> None:
    block, query = variant.build(), _query()
    memory, mask = _memory(block), torch.rand(B, T_Q, T_K) > 0.3
    for offset in (0, 2):
        found = block(query, memory, mask=mask, need_weights=need_weights, offset=offset)
        wanted = block.attend(query, memory, mask, need_weights=need_weights, offset=offset)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    with pytest.raises(TypeError, match="value must be omitted with a Memory as key"):
        block(query, memory, memory.value)


@every_variant
def test_forward_takes_the_position_of_the_first_query(variant: Variant) -> None:
    block, query = variant.build(), _query(length=T_K)
    key, value = torch.randn(2, B, T_K, D, dtype=torch.float64)
    whole = block(query, key, value)
    later = block(query[:, 2:], key, value, offset=2)
    torch.testing.assert_close(later.context, whole.context[:, 2:])


def _narrowed(memory: Memory, dim: int, size: int, *, keys: bool = True, values: bool = True) -> Memory:
    key, value = memory
    return Memory(key.narrow(dim, 0, size) if keys else key, value.narrow(dim, 0, size) if values else value)


BAD_MEMORIES: dict[str, tuple[Callable[[Memory], Memory], str]] = {
    "fewer values": (
        partial(_narrowed, dim=-2, size=2, keys=False),
        "must agree in batch size and number of positions",
    ),
    "fewer keys": (
        partial(_narrowed, dim=-2, size=2, values=False),
        "must agree in batch size and number of positions",
    ),
    "one key": (partial(_narrowed, dim=-2, size=1, values=False), "must agree in batch size and number of positions"),
    "one value": (partial(_narrowed, dim=-2, size=1, keys=False), "must agree in batch size and number of positions"),
    "one row of values": (partial(_narrowed, dim=0, size=1, keys=False), "must agree in batch size"),
    "one row of keys": (partial(_narrowed, dim=0, size=1, values=False), "must agree in batch size"),
    "one row": (partial(_narrowed, dim=0, size=1), "must have the same batch size, got 2 and 1; .* attend_beams"),
}


@every_variant
@both_paths
@pytest.mark.parametrize(("spoil", "message"), BAD_MEMORIES.values(), ids=BAD_MEMORIES)
def test_refuses_a_memory_that_does_not_fit(
    variant: Variant, need_weights: bool, spoil: Callable[[Memory], Memory], message: str
) -> None:
    block, query = variant.build(), _query()
    memory = spoil(_memory(block))
    doors = [partial(block, query, memory), partial(block.attend_beams, query[:, :1], memory)]
    if type(block) is not KernelAttention:  # a user's block need not check what it is given directly
        doors += [partial(block.attend, query, memory), partial(block.attend_beams, query, memory)]
    for door in doors:
        with pytest.raises(ValueError, match=message):
            door(need_weights=need_weights)


@every_variant
@both_paths
@pytest.mark.parametrize("size", [1, 2])
def test_refuses_a_memory_of_other_features(variant: Variant, need_weights: bool, size: int) -> None:
    block, query = variant.build(), _query()
    whole = _memory(block)
    memory = _narrowed(whole, -1, size, values=False)
    if type(block) is not KernelAttention and size < whole.key.size(-1):
        for door in (block, block.attend):
            with pytest.raises(ValueError, match=r"features|shape"):
                door(query, memory, need_weights=need_weights)


@every_variant
@pytest.mark.parametrize(
    "shape", [(T_K, T_Q), (B + 1, 1, T_K), (T_K + 1,), (B, 3, T_Q, T_K), (1, B, 4, T_Q, T_K)], ids=str
)
def test_attend_refuses_a_mask_that_does_not_fit(variant: Variant, shape: tuple[int, ...]) -> None:
    block = variant.build()
    doors = (block,) if type(block) is KernelAttention else (block, block.attend, block.attend_beams)
    for door in doors:
        with pytest.raises(ValueError, match=r"mask has shape .* does not broadcast to .*\(2, .*3, 5\)"):
            door(_query(), _memory(block), mask=torch.ones(shape, dtype=torch.bool))
        with pytest.raises(TypeError, match="mask must be boolean"):
            door(_query(), _memory(block), mask=torch.ones(T_Q, T_K))


@every_variant
@both_paths
def test_refuses_queries_that_do_not_fit_the_memory(variant: Variant, need_weights: bool) -> None:
    block = variant.build()
    memory = _memory(block)
    attend = block if type(block) is KernelAttention else block.attend
    for query, message in (
        (_query(batch=1), "must have the same batch size, got 1 and 2"),
        (_query(batch=2 * B), "must have the same batch size, got 4 and 2"),
        (_query()[0], r"query must have shape \(B, T_q, 16\), got \(3, 16\)"),
        (_query()[..., :1], r"query must have shape \(B, T_q, 16\), got \(2, 3, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            attend(query, memory, need_weights=need_weights)


@every_variant
def test_refuses_keys_of_another_batch_size(variant: Variant) -> None:
    block, mask = variant.build(), torch.ones(T_K, dtype=torch.bool)
    for query, key in ((_query(), _query(batch=1)), (_query(batch=1), _query()), (_query(), _query(batch=3))):
        for arguments in ((query, key), (query, key, key), (query, key, key, mask[: key.size(1)])):
            with pytest.raises(ValueError, match="must have the same batch size"):
                block(*arguments)


@every_variant
def test_project_refuses_what_it_cannot_project(variant: Variant) -> None:
    block = variant.build()
    key = torch.randn(B, T_K, D, dtype=torch.float64)
    doors: list[Callable[..., object]] = [partial(block, _query())]
    doors += [] if type(block) is KernelAttention else [block.project]
    for door in doors:
        for wrong in (key[0], key[..., :1], key.unsqueeze(1)):
            with pytest.raises(ValueError, match=r"key must have shape \(B, T_k, 16\), got \("):
                door(wrong, key)
        for wrong in (key[0], key[:1], key[:, :1], key[:, :2], key.unsqueeze(1)):
            with pytest.raises(ValueError, match=r"value must have shape \(B, T_k, D_v\) = \(2, 5, 'any'\), got \("):
                door(key, wrong)


@every_variant
def test_values_of_other_features_are_used_or_refused(variant: Variant) -> None:
    block, query = variant.build(), _query()
    key, value = torch.randn(B, T_K, D, dtype=torch.float64), torch.randn(B, T_K, 7, dtype=torch.float64)
    if isinstance(block, MultiHeadAttention):
        for door in (block.project, partial(block, query)):
            with pytest.raises(ValueError, match="value"):
                door(key, value)
    else:
        assert block(query, key, value).context.shape == (B, T_Q, 7)


@pytest.mark.parametrize("mask", [None, torch.ones(5, dtype=torch.bool)], ids=["open", "masked"])
@pytest.mark.parametrize("make", [DotProductAttention, MultiHeadAttention, NearbyAttention])
def test_refuses_a_query_that_is_a_vector(make: Callable[[int], Attention], mask: Tensor | None) -> None:
    key = torch.randn(2, 5, 16)
    with pytest.raises(ValueError, match=r"query must have shape \(B, T_q, 16\), got \(16,\)"):
        make(16)(key[0, 0], key, mask=mask)


@both_paths
def test_unlike_numbers_of_keys_and_values_are_never_read(need_weights: bool) -> None:
    block = MultiHeadAttention(8, num_heads=2)
    long, short = block.project(torch.randn(2, 9, 8)), block.project(torch.randn(2, 5, 8))
    query = torch.randn(2, 20, 8)
    for key, value in ((short.key, long.value), (long.key, short.value)):
        for door in (block, block.attend, block.attend_beams):
            with pytest.raises(ValueError, match=r"memory holds keys of shape .* and values of shape .* must agree"):
                door(query, Memory(key, value), need_weights=need_weights)


@pytest.mark.parametrize("key_heads", [1, 2])
def test_a_memory_of_another_number_of_heads_is_refused(key_heads: int) -> None:
    block, query = MultiHeadAttention(16, num_heads=4), torch.randn(2, 3, 16)
    other = MultiHeadAttention(16, num_heads=4, num_kv_heads=key_heads)
    with pytest.raises(ValueError, match="heads"):
        block.attend(query, other.project(torch.randn(2, 5, 16)))


@every_variant
@both_paths
def test_strictly_later_positions_may_be_attended_to(variant: Variant, need_weights: bool) -> None:
    """``triu(1)`` is a mask like any other: its last row is empty."""
    block, x = variant.build(), _query(length=4)
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    with pytest.warns(UserWarning, match=r"looks inverted.*pass ~mask"):
        found = block(x, x, mask=mask, need_weights=need_weights)
    wanted = block.attend(x, block.project(x), mask.expand(B, -1, -1), need_weights=need_weights)
    torch.testing.assert_close(found, wanted)
    assert not found.context[:, -1].any()
    if not variant.name.startswith("MaskedSelf"):
        for position in range(3):
            later = x[:, position + 1 :]
            if not variant.ordered_keys:
                alone = block(x[:, position : position + 1], later, need_weights=need_weights)
                torch.testing.assert_close(found.context[:, position], alone.context[:, 0])


@every_variant
@both_paths
def test_left_padding_beside_an_empty_row(variant: Variant, need_weights: bool) -> None:
    block, (query, key) = variant.build(), (_query(), torch.randn(B, T_K, D, dtype=torch.float64))
    mask = torch.tensor([[False, False, True, True, True], [False] * 5])[:, None]
    with pytest.warns(UserWarning, match=r"looks inverted"):
        found = block(query, key, mask=mask, need_weights=need_weights)
    assert not found.context[1].any()
    other = key.clone()
    other[:, :2] = 9.0
    with pytest.warns(UserWarning, match=r"looks inverted"):
        torch.testing.assert_close(block(query, other, mask=mask, need_weights=need_weights), found)
    if not variant.ordered_keys:
        torch.testing.assert_close(found.context[0], block(query[:1], key[:1, 2:]).context[0])


def _causal_and_padding(need_weights: bool, block: Attention) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    """Function of a sequence and a mask, and its arguments, with an empty row."""

    def run(x: Tensor, mask: Tensor) -> Tensor:
        context: Tensor = block(x, x, mask=mask, need_weights=need_weights).context
        return context

    return run, _query(batch=3, length=T_K), causal_mask(T_K) & padding_mask(torch.tensor([5, 3, 0]), T_K)


@every_variant
@both_paths
def test_causal_and_padding_masks_under_vmap_and_make_fx(variant: Variant, need_weights: bool) -> None:
    run, x, mask = _causal_and_padding(need_weights, variant.build())
    wanted = run(x, mask)
    torch.testing.assert_close(torch.func.vmap(run)(x[:, None], mask[:, None])[:, 0], wanted)
    torch.testing.assert_close(torch.func.vmap(run, (0, None))(x[:, None], mask[:1])[:, 0], run(x, mask[:1]))
    with torch.no_grad():
        torch.testing.assert_close(make_fx(run)(x, mask)(x, mask), wanted)


@every_traced_variant
@both_paths
def test_make_fx_with_free_sizes(variant: Variant, need_weights: bool) -> None:
    run, x, mask = _causal_and_padding(need_weights, variant.build())
    with torch.no_grad():
        traced = make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x, mask)
        torch.testing.assert_close(traced(x, mask), run(x, mask))


class Stepping(AdditiveAttention):
    """Counts its calls as a module."""

    calls = 0

    def forward(self, *arguments: Tensor | Memory | None, **options: object) -> AttentionOutput:
        self.calls += 1
        return super().forward(*arguments, **options)  # type: ignore[arg-type]


class Located(Stepping):
    """As one that depends on positions."""

    @property
    def uses_positions(self) -> bool:
        return True


@pytest.mark.parametrize(("kind", "calls"), [(Stepping, 1), (Located, 3)])
def test_hypotheses_are_attended_from_by_calls_of_the_module(kind: type[Stepping], calls: int) -> None:
    block, query = kind(4), torch.randn(2, 3, 4)
    seen: list[int] = []
    block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].size(1)))
    memory = block.project(torch.randn(2, 5, 4))
    block.attend_beams(query, memory, torch.rand(2, 3, 5) > 0.3, need_weights=True)
    assert block.calls == calls == len(seen)
    assert sum(seen) == 3
    block.attend_beams(query[:, :1], memory)
    assert block.calls == calls + 1


def test_a_mask_for_each_hypothesis_and_head() -> None:
    block, query = MultiHeadAttention(8, num_heads=2, rotary=None), torch.randn(2, 3, 8)
    memory, mask = block.project(torch.randn(2, 5, 8)), torch.rand(2, 2, 3, 5) > 0.3
    torch.testing.assert_close(
        Attention.attend_beams(block, query, memory, mask, need_weights=True),
        block.attend(query, memory, mask, need_weights=True),
    )


def test_self_attention_takes_a_memory() -> None:
    block, x = SelfAttention(8, num_heads=2), torch.randn(2, 5, 8)
    torch.testing.assert_close(block(x[:, 3:], block.project(x), offset=3).context, block(x).context[:, 3:])
    with pytest.raises(TypeError, match="value must be omitted"):
        block(x, block.project(x), x)


def test_a_users_block_is_checked_by_forward() -> None:
    block, query, key = NearbyAttention(4), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    for arguments, message in (
        ((query, key[:1]), "must have the same batch size, got 2 and 1"),
        ((query[:1], key), "must have the same batch size, got 1 and 2"),
        ((query, key, key[:, :4]), "value must have shape"),
        ((query, key[..., :3]), "key must have shape"),
        ((query[..., :3], key), "query must have shape"),
        ((query, Memory(key[:1], key[:1])), "must have the same batch size, got 2 and 1"),
        ((query, Memory(key, key[:, :4])), "must agree"),
    ):
        with pytest.raises(ValueError, match=message):
            block(*arguments)
