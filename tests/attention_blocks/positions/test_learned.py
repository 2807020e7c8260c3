import pytest
import torch

from attention_blocks import LearnedPosition


def test_adds_the_row_of_each_position() -> None:
    position = LearnedPosition(3, max_length=6)
    x = torch.randn(2, 4, 3)
    y = position(x, offset=2)
    for row in range(2):
        for t in range(4):
            torch.testing.assert_close(y[row, t], x[row, t] + position.table[t + 2])


def test_pieces_with_offsets_equal_the_whole() -> None:
    position = LearnedPosition(3, max_length=6)
    x = torch.randn(2, 6, 3)
    pieces = [position(x[:, :1]), position(x[:, 1:4], offset=1), position(x[:, 4:], offset=4)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), position(x))


def test_only_the_positions_used_get_a_gradient() -> None:
    position = LearnedPosition(3, max_length=6)
    position(torch.zeros(5, 2, 3), offset=1).sum().backward()
    gradient = position.table.grad
    assert gradient is not None
    assert gradient.sum(1).tolist() == [0, 15, 15, 0, 0, 0]


def test_starts_small() -> None:
    table = LearnedPosition(64, max_length=100).table
    assert table.std().item() == pytest.approx(0.02, rel=0.1)


def test_compiles_and_exports() -> None:
    position = LearnedPosition(3, max_length=6)
    x = torch.randn(2, 4, 3)
    wanted = x + position.table[:4]
    torch.testing.assert_close(torch.compile(position, fullgraph=True, backend="eager")(x), wanted)
    torch.testing.assert_close(torch.export.export(position, (x,)).module()(x), wanted)


@pytest.mark.parametrize(("length", "offset"), [(7, 0), (4, 3), (2, -1)])
def test_refuses_positions_outside_the_table(length: int, offset: int) -> None:
    with pytest.raises(ValueError, match=f"positions {offset} to {offset + length - 1}.* max_length=6"):
        LearnedPosition(3, max_length=6)(torch.zeros(1, length, 3), offset=offset)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match="must be positive, got dim=3, max_length=0"):
        LearnedPosition(3, max_length=0)
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 3\).*got \(2, 4, 1\)"):
        LearnedPosition(3, max_length=6)(torch.zeros(2, 4, 1))
