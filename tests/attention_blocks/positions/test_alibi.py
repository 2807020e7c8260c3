import pytest
import torch

from attention_blocks import ALiBi, MultiHeadAttention

# Section 3 of the paper: for 8 heads 1/2 to 1/256, for 16 heads the geometric means of those stand between them. The
# authors' code fills up other counts with every other slope of the next power of two.
EIGHT = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
SIXTEEN = [0.5 ** (0.5 * head) for head in range(1, 17)]


@pytest.mark.parametrize(
    ("num_heads", "slopes"),
    [
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (8, EIGHT),
        (16, SIXTEEN),
        (12, [*EIGHT, 0.5**0.5, 0.5**1.5, 0.5**2.5, 0.5**3.5]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
    ],
)
def test_scores_fall_with_the_distance_at_the_slopes_of_the_paper(num_heads: int, slopes: list[float]) -> None:
    bias = ALiBi(num_heads)(4, 7, offset=2)
    assert bias.shape == (num_heads, 4, 7)
    for head in range(num_heads):
        for query in range(4):
            for key in range(7):
                assert bias[head, query, key].item() == pytest.approx(-slopes[head] * abs(query + 2 - key))


def test_pieces_with_offsets_equal_the_whole() -> None:
    alibi = ALiBi(4)
    pieces = [alibi(3, 8), alibi(1, 8, offset=3), alibi(4, 8, offset=4)]
    assert torch.equal(torch.cat(pieces, dim=1), alibi(8, 8))


def test_attention_adds_it_to_the_scores() -> None:
    attention = MultiHeadAttention(16, num_heads=4, score_bias=ALiBi)
    x = torch.randn(2, 5, 16)
    q, k = (proj(x).view(2, 5, 4, 4).transpose(1, 2) for proj in (attention.query_proj, attention.key_proj))
    distance = torch.tensor([[abs(i - j) for j in range(5)] for i in range(5)])
    slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]).view(4, 1, 1)
    wanted = (q @ k.mT / 2 - slopes * distance).softmax(-1)
    torch.testing.assert_close(attention(x, x, need_weights=True).weights, wanted)


def test_has_no_state_and_stays_exact_in_half_precision() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        alibi = ALiBi(8).to(dtype)
        assert alibi.state_dict() == {}
        assert [*alibi.parameters(), *alibi.buffers()] == []
        bias = alibi(1, 1000)
        assert bias.dtype == torch.float32
        assert bias[0, 0, 999].item() == -999 / 2


def test_is_created_on_the_device_that_is_asked_for() -> None:
    assert ALiBi(4)(2, 3).device.type == "cpu"
    assert ALiBi(4)(2, 3, device="meta").is_meta
    assert ALiBi(4)(2, 3, device=torch.device("cpu")).device.type == "cpu"
    with torch.device("meta"):
        alibi = ALiBi(4)
    torch.testing.assert_close(alibi(2, 3, device="cpu"), ALiBi(4)(2, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_attention_of_another_precision(dtype: torch.dtype) -> None:
    attention, x = MultiHeadAttention(16, num_heads=4, score_bias=ALiBi).to(dtype), torch.randn(2, 5, 16).to(dtype)
    wanted = attention.double()(x.double(), x.double()).context
    attention.to(dtype)
    for need_weights in (False, True):
        found = attention(x, x, need_weights=need_weights).context
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=64 * torch.finfo(dtype).eps)


def test_compiles_and_exports() -> None:
    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alibi = ALiBi(2)

        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            return scores + self.alibi(scores.size(-2), scores.size(-1))

    scores, module = torch.randn(3, 2, 4, 5), Biased()
    wanted = scores + ALiBi(2)(4, 5)
    torch.testing.assert_close(torch.compile(module, fullgraph=True, backend="eager")(scores), wanted)
    torch.testing.assert_close(torch.export.export(module, (scores,)).module()(scores), wanted)


def test_refuses_no_heads() -> None:
    with pytest.raises(ValueError, match="num_heads must be 1 or more, got 0"):
        ALiBi(0)
