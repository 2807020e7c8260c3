import math

import pytest
import torch

from attention_blocks import MultiHeadAttention, RelativePositionBias


def paper_bucket(ahead: int, num_buckets: int, max_distance: int, *, bidirectional: bool) -> int:
    """Half the buckets for each direction; of these half exact, half logarithmic up to the largest distance."""
    first = 0
    if bidirectional:
        num_buckets //= 2
        first = num_buckets if ahead > 0 else 0
        distance = abs(ahead)
    else:
        distance = max(-ahead, 0)
    exact = num_buckets // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(max_distance / exact)
    # A small tolerance, as the logarithms of whole powers may be rounded below an integer.
    return first + min(num_buckets - 1, exact + math.floor(share * (num_buckets - exact) + 1e-9))


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (6, 300), (4, 9), (16, 64)])
def test_buckets_are_those_of_the_paper(num_buckets: int, max_distance: int, bidirectional: bool) -> None:
    bias = RelativePositionBias(2, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional)
    numbers = torch.stack([torch.arange(num_buckets), -torch.arange(num_buckets)], dim=1).float()
    bias.load_state_dict({"table": numbers})
    found = bias(3, 700, offset=350)
    wanted = torch.tensor(
        [
            [paper_bucket(j - i - 350, num_buckets, max_distance, bidirectional=bidirectional) for j in range(700)]
            for i in range(3)
        ]
    )
    assert torch.equal(found[0], wanted.float())
    assert torch.equal(found[1], -wanted.float())


def test_pieces_with_offsets_equal_the_whole() -> None:
    bias = RelativePositionBias(4)
    pieces = [bias(3, 8), bias(1, 8, offset=3), bias(4, 8, offset=4)]
    assert torch.equal(torch.cat(pieces, dim=1), bias(8, 8))


def test_attention_adds_it_to_the_scores_and_trains_it() -> None:
    attention = MultiHeadAttention(16, num_heads=4, score_bias=RelativePositionBias)
    bias = attention.score_bias
    assert isinstance(bias, RelativePositionBias)
    x = torch.randn(2, 5, 16)
    q, k = (proj(x).view(2, 5, 4, 4).transpose(1, 2) for proj in (attention.query_proj, attention.key_proj))
    added = torch.zeros(4, 5, 5)
    for i in range(5):
        for j in range(5):
            added[:, i, j] = bias.table[paper_bucket(j - i, 32, 128, bidirectional=True)].detach()
    torch.testing.assert_close(attention(x, x, need_weights=True).weights, (q @ k.mT / 2 + added).softmax(-1))
    attention(x, x).context.square().sum().backward()
    gradient = bias.table.grad
    assert gradient is not None
    met = {paper_bucket(ahead, 32, 128, bidirectional=True) for ahead in range(-4, 5)}
    assert set(gradient.abs().sum(1).nonzero().flatten().tolist()) == met


def test_only_the_table_is_stored() -> None:
    bias = RelativePositionBias(2)
    assert list(bias.state_dict()) == ["table"]
    assert list(bias.buffers()) == []


def test_a_table_without_data_is_filled_by_loading() -> None:
    bias = RelativePositionBias(4)
    with torch.device("meta"):
        other, assigned = RelativePositionBias(4), RelativePositionBias(4)
    other.to_empty(device="cpu").load_state_dict(bias.state_dict())
    assigned.load_state_dict(bias.state_dict(), assign=True)
    for each in (other, assigned):
        assert torch.equal(each(3, 200, offset=100), bias(3, 200, offset=100))


def test_is_on_the_device_of_its_table_whatever_is_asked_for() -> None:
    bias = RelativePositionBias(4)
    assert torch.equal(bias(3, 5, device="meta"), bias(3, 5))
    assert bias.to("meta")(3, 5, device="cpu").is_meta


def test_compiles_and_exports() -> None:
    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = RelativePositionBias(2)

        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            return scores + self.bias(scores.size(-2), scores.size(-1))

    scores, module = torch.randn(3, 2, 4, 5), Biased()
    wanted = scores + module.bias(4, 5)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(scores), wanted)
    torch.testing.assert_close(torch.export.export(module, (scores,)).module()(scores), wanted)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match="num_heads must be 1 or more, got 0"):
        RelativePositionBias(0)
    with pytest.raises(ValueError, match=r"num_buckets must be an even number from 4 on.*got 7"):
        RelativePositionBias(2, num_buckets=7)
    with pytest.raises(ValueError, match="num_buckets must be 2 or more, got 1"):
        RelativePositionBias(2, num_buckets=1, bidirectional=False)
    with pytest.raises(ValueError, match=r"max_distance \(8\) must exceed 8"):
        RelativePositionBias(2, num_buckets=32, max_distance=8)
