import math

import pytest
import torch
from torch import Tensor

from attention_blocks import AdditiveAttention, padding_mask


def bahdanau(
    block: AdditiveAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Appendix A.1.2 of the paper, one number at a time: e_ij = v · tanh(W s_i + U h_j), α = softmax(e), c = Σ α h."""
    w, u, v = block.query_proj.weight, block.key_proj.weight, block.score_weight
    weights = torch.zeros(query.size(0), query.size(1), key.size(1), dtype=torch.float64)
    context = torch.zeros(query.size(0), query.size(1), value.size(2), dtype=torch.float64)
    for b in range(query.size(0)):
        for i in range(query.size(1)):
            energy = {}
            for j in range(key.size(1)):
                if mask[b, i, j]:
                    hidden = [math.tanh((w[n] @ query[b, i] + u[n] @ key[b, j]).item()) for n in range(w.size(0))]
                    energy[j] = math.exp(sum(v[n].item() * hidden[n] for n in range(w.size(0))))
            for j, e in energy.items():
                weights[b, i, j] = e / sum(energy.values())
                context[b, i] += weights[b, i, j] * value[b, j]
    return context, weights


@pytest.mark.parametrize("hidden_dim", [None, 3])
def test_follows_the_paper(hidden_dim: int | None) -> None:
    block = AdditiveAttention(4, 6, hidden_dim=hidden_dim).double()
    query, key, value = (torch.randn(2, t, d, dtype=torch.float64) for t, d in ((3, 4), (5, 6), (5, 7)))
    mask = padding_mask(torch.tensor([5, 3])) & (torch.rand(2, 3, 5) > 0.3)
    context, weights = bahdanau(block, query, key, value, mask)
    found = block(query, key, value, mask, need_weights=True)
    torch.testing.assert_close(found.context, context)
    torch.testing.assert_close(found.weights, weights)


def test_memory_holds_the_projected_keys() -> None:
    block = AdditiveAttention(4, 6, hidden_dim=3).double()
    key = torch.randn(2, 5, 6, dtype=torch.float64)
    memory = block.project(key)
    torch.testing.assert_close(memory.key, torch.einsum("nd,btd->btn", block.key_proj.weight, key))
    assert memory.value is key


def test_the_hidden_size_defaults_to_the_size_of_the_query() -> None:
    assert AdditiveAttention(4, 6).score_weight.shape == (4,)
    assert AdditiveAttention(4, 6, hidden_dim=9).score_weight.shape == (9,)


def test_resets_its_own_weight_as_a_linear_layer_does() -> None:
    block = AdditiveAttention(4, 6, hidden_dim=900)
    torch.nn.init.constant_(block.score_weight, 7.0)
    projections = [linear.weight.clone() for linear in (block.query_proj, block.key_proj)]
    torch.manual_seed(3)
    block.reset_parameters()
    torch.manual_seed(3)
    wanted = torch.nn.Linear(900, 1, bias=False).weight[0]
    assert torch.equal(block.score_weight, wanted)
    assert block.score_weight.abs().max().item() <= 1 / 30
    assert block.score_weight.std().item() == pytest.approx(1 / 30 / 3**0.5, rel=0.1)
    assert torch.equal(block.query_proj.weight, projections[0])
    assert torch.equal(block.key_proj.weight, projections[1])


def test_refuses_an_empty_hidden_layer() -> None:
    with pytest.raises(ValueError, match="hidden_dim must be a positive feature size, got 0"):
        AdditiveAttention(4, hidden_dim=0)
