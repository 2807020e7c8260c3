import pytest
import torch
from torch import Tensor

from attention_blocks import Attention, AttentionOutput, DotProductAttention, Memory


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
    with pytest.raises(ValueError, match=r"looks inverted"):
        FirstKey(4)(query, query, mask=torch.ones(3, 3).bool().triu(1))


def test_attend_does_not_check_for_inverted_masks() -> None:
    # Only forward checks whether a mask looks inverted; reading it would slow down a cached step.
    block, query = DotProductAttention(4), torch.randn(2, 3, 4)
    anti_causal = torch.ones(3, 3).bool().triu(1)
    context = block.attend(query, block.project(query), anti_causal).context
    assert not context[:, -1].any()
    assert context[:, 0].any()
