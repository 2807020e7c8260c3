import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_blocks import DotProductAttention
from attention_blocks.sequence.dot_product import Similarity


def _score(similarity: Similarity, query: Tensor, key: Tensor) -> float:
    score = sum(q.item() * k.item() for q, k in zip(query, key, strict=True))
    if similarity == "scaled":
        return score / math.sqrt(len(query))
    if similarity == "cosine":
        return score / (math.hypot(*query.tolist()) * math.hypot(*key.tolist()))
    return score


@pytest.mark.parametrize("similarity", get_args(Similarity))
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_follows_its_formula(similarity: Similarity, scale: float) -> None:
    block = DotProductAttention(4, similarity=similarity, scale=scale)
    query, key, value = (torch.randn(2, t, d, dtype=torch.float64) for t, d in ((3, 4), (5, 4), (5, 7)))
    mask = torch.rand(2, 3, 5) > 0.3
    weights = torch.zeros(2, 3, 5, dtype=torch.float64)
    for b in range(2):
        for i in range(3):
            exp = {j: math.exp(scale * _score(similarity, query[b, i], key[b, j])) for j in range(5) if mask[b, i, j]}
            for j, e in exp.items():
                weights[b, i, j] = e / sum(exp.values())
    found = block(query, key, value, mask, need_weights=True)
    torch.testing.assert_close(found.weights, weights)
    torch.testing.assert_close(found.context, torch.einsum("bqk,bkd->bqd", weights, value))
    torch.testing.assert_close(block(query, key, value, mask).context, found.context)


def test_scaled_is_what_torch_calls_scaled() -> None:
    query, key, value = (torch.randn(2, t, d) for t, d in ((3, 8), (5, 8), (5, 6)))
    block = DotProductAttention(8)
    wanted = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(block(query, key, value).context, wanted)
    torch.testing.assert_close(block(query, key, value, need_weights=True).context, wanted)


def test_cosine_is_independent_of_the_length() -> None:
    query, key, value = (torch.randn(2, t, 8, dtype=torch.float64) for t in (3, 5, 5))
    block = DotProductAttention(8, similarity="cosine", scale=10.0)
    found = block(1000 * query, key / 1000, value).context
    torch.testing.assert_close(found, block(query, key, value).context)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("need_weights", [False, True])
def test_cosine_with_zero_vectors(dtype: torch.dtype, need_weights: bool) -> None:
    query = torch.zeros(1, 2, 8, dtype=dtype, requires_grad=True)
    key = torch.zeros(1, 3, 8, dtype=dtype, requires_grad=True)
    value = torch.randn(1, 3, 8, dtype=dtype)
    context = DotProductAttention(8, similarity="cosine")(query, key, value, need_weights=need_weights).context
    torch.testing.assert_close(context, value.mean(1, keepdim=True).expand(1, 2, 8))
    gradients = torch.autograd.grad(context.sum(), (query, key))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_has_no_parameters() -> None:
    assert not list(DotProductAttention(8).parameters())


def test_refuses_different_sizes() -> None:
    with pytest.raises(ValueError, match=r"key_dim \(6\) must equal query_dim \(8\).*'general'"):
        DotProductAttention(8, 6)


def test_refuses_an_unknown_similarity() -> None:
    with pytest.raises(ValueError, match="similarity must be one of plain, scaled, cosine, got 'dot'"):
        DotProductAttention(8, similarity="dot")  # type: ignore[arg-type]


def test_prints_its_similarity() -> None:
    assert repr(DotProductAttention(16)) == "DotProductAttention(16, similarity='scaled', scale=0.25)"
