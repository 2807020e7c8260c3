import math
from typing import cast, get_args

import pytest
import torch
from torch import Tensor, nn

from attention_blocks import LuongAttention, padding_mask
from attention_blocks.sequence.luong import LuongScore, LuongWindow

SCORES, WINDOWS = get_args(LuongScore), get_args(LuongWindow)


def weight(linear: nn.Linear | None) -> Tensor:
    assert linear is not None
    return linear.weight


def luong_score(block: LuongAttention, query: Tensor, key: Tensor) -> float:
    """Equation 8 of the paper for one query and one key."""
    if block.score == "dot":
        return (query @ key).item()
    if block.score == "general":
        return (query @ weight(block.key_proj) @ key).item()
    assert block.concat is not None
    # W [q; k], the two vectors one above the other.
    w = torch.cat([block.concat.query_proj.weight, block.concat.key_proj.weight], dim=1)
    return (block.concat.score_weight @ torch.tanh(w @ torch.cat([query, key]))).item()


def luong(block: LuongAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 7 to 10, one number at a time."""
    weights = torch.zeros(query.size(0), query.size(1), key.size(1), dtype=torch.float64)
    context = torch.zeros(query.size(0), query.size(1), value.size(2), dtype=torch.float64)
    for b in range(query.size(0)):
        for t in range(query.size(1)):
            centre = float(t)
            if block.window == "local-p":
                hidden = torch.tanh(weight(block.position_hidden) @ query[b, t])
                length = int(mask[b, t].sum())
                centre = length / (1 + math.exp(-(weight(block.position_proj)[0] @ hidden).item()))
            seen = [s for s in range(key.size(1)) if mask[b, t, s]]
            if block.window != "global":
                seen = [s for s in seen if abs(s - centre) <= block.radius]
            exp = {s: math.exp(luong_score(block, query[b, t], key[b, s])) for s in seen}
            for s in seen:
                share = exp[s] / sum(exp.values())
                if block.window == "local-p":
                    share *= math.exp(-((s - centre) ** 2) / (2 * (block.radius / 2) ** 2))
                weights[b, t, s] = share
                context[b, t] += share * value[b, s]
    return context, weights


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("radius", [1, 3])
def test_follows_the_paper(score: LuongScore, window: LuongWindow, radius: int) -> None:
    key_dim = 4 if score == "dot" else 6
    block = LuongAttention(4, key_dim, score=score, window=window, radius=radius).double()
    query, key, value = (torch.randn(2, t, d, dtype=torch.float64) for t, d in ((6, 4), (8, key_dim), (8, 5)))
    for mask in (None, padding_mask(torch.tensor([8, 5]), 8)):
        everything = torch.ones(2, 6, 8, dtype=torch.bool)
        context, weights = luong(block, query, key, value, everything if mask is None else mask & everything)
        found = block(query, key, value, mask, need_weights=True)
        torch.testing.assert_close(found.context, context)
        torch.testing.assert_close(found.weights, weights)
        torch.testing.assert_close(block(query, key, value, mask).context, context)


def test_monotonic_window_follows_the_offset() -> None:
    block = LuongAttention(4, window="local-m", radius=1)
    weights = block.attend(
        torch.randn(1, 1, 4), block.project(torch.randn(1, 9, 4)), need_weights=True, offset=6
    ).weights
    assert cast(Tensor, weights)[0, 0].nonzero().flatten().tolist() == [5, 6, 7]


def test_predicted_position_stays_within_the_sequence() -> None:
    block = LuongAttention(4, window="local-p", radius=1).double()
    with torch.no_grad():
        weight(block.position_proj).fill_(100.0)
    query, mask = torch.randn(2, 6, 4, dtype=torch.float64), padding_mask(torch.tensor([9, 4]))
    weights = block(query, torch.randn(2, 9, 4, dtype=torch.float64), mask=mask, need_weights=True).weights
    seen = weights.sum(-1) > 0
    assert seen.all()
    assert not weights[1, :, 4:].any()


def test_predicted_position_gets_a_gradient() -> None:
    block = LuongAttention(4, window="local-p", radius=4)
    block(torch.randn(2, 3, 4), torch.randn(2, 9, 4)).context.sum().backward()
    for linear in (block.position_hidden, block.position_proj):
        gradient = weight(linear).grad
        assert gradient is not None
        assert gradient.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "cosine"}, "score must be one of dot, general, concat, got 'cosine'"),
        ({"window": "local"}, "window must be one of global, local-m, local-p, got 'local'"),
        ({"score": "dot"}, r"key_dim \(6\) must equal query_dim \(4\) for score='dot'; use score='general'"),
        ({"radius": 0}, "radius must be 1 or more, got 0"),
    ],
    ids=str,
)
def test_refuses_unknown_scores_and_windows(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LuongAttention(4, 6, **arguments)  # type: ignore[arg-type]


def test_prints_score_and_window() -> None:
    assert "score='dot', window='local-m', radius=3" in repr(LuongAttention(4, score="dot", window="local-m", radius=3))
    assert "radius" not in repr(LuongAttention(4))
