import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.export import Dim, export

from attention_blocks import LearnedPosition2d


def timm_resampled(table: Tensor, grid: tuple[int, int]) -> Tensor:
    rows, columns, dim = table.shape
    tokens = table.reshape(1, rows * columns, dim)
    resampled = resample_abs_pos_embed(tokens, list(grid), [rows, columns], num_prefix_tokens=0)
    return resampled.reshape(*grid, dim)


def test_adds_the_vector_of_each_location() -> None:
    position = LearnedPosition2d(3, grid=(4, 5))
    x = torch.randn(2, 4, 5, 3)
    y = position(x)
    for row in range(4):
        for column in range(5):
            torch.testing.assert_close(y[:, row, column], x[:, row, column] + position.table[row, column])


@pytest.mark.parametrize("grid", [(8, 8), (3, 3), (9, 4), (2, 7), (4, 6)])
def test_another_grid_is_resampled_as_timm_does(grid: tuple[int, int]) -> None:
    position = LearnedPosition2d(5, grid=(6, 4))
    x = torch.randn(2, *grid, 5)
    torch.testing.assert_close(position(x), x + timm_resampled(position.table.detach(), grid))


@pytest.mark.parametrize("prefix", ["", "positions."])
def test_loading_another_grid_resamples_it_as_timm_does(prefix: str) -> None:
    position = LearnedPosition2d(5, grid=(6, 4))
    loaded = {f"{prefix}table": torch.randn(7, 7, 5)}
    module = nn.ModuleDict({"positions": position}) if prefix else position
    module.load_state_dict(loaded)
    torch.testing.assert_close(position.table.detach(), timm_resampled(loaded[f"{prefix}table"], (6, 4)))
    assert loaded[f"{prefix}table"].shape == (7, 7, 5), "the caller's state dict must stay as it was"


def test_loading_the_same_grid_changes_nothing() -> None:
    position, other = LearnedPosition2d(5, grid=(6, 4)), LearnedPosition2d(5, grid=(6, 4))
    position.load_state_dict(other.state_dict())
    assert torch.equal(position.table, other.table)


def test_half_precision_tables_are_resampled_in_float32() -> None:
    position = LearnedPosition2d(5, grid=(4, 4)).to(torch.bfloat16)
    x = torch.zeros(1, 8, 8, 5, dtype=torch.bfloat16)
    wanted = timm_resampled(position.table.detach().float(), (8, 8)).to(torch.bfloat16)
    assert torch.equal(position(x)[0], wanted)


def test_resampling_lets_gradients_through() -> None:
    position = LearnedPosition2d(2, grid=(2, 3)).double()
    x = torch.randn(1, 3, 4, 2, dtype=torch.float64)

    def with_table(table: Tensor) -> Tensor:
        return torch.func.functional_call(position, {"table": table}, (x,))

    assert torch.autograd.gradcheck(with_table, position.table.detach().clone().requires_grad_())


def test_starts_small() -> None:
    assert LearnedPosition2d(64, grid=(10, 10)).table.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("grid", [(4, 4), (6, 3)])
def test_compiles_and_exports(grid: tuple[int, int]) -> None:
    position = LearnedPosition2d(3, grid=(4, 4))
    x = torch.randn(2, *grid, 3)
    wanted = x + timm_resampled(position.table.detach(), grid)
    torch.testing.assert_close(torch.compile(position, fullgraph=True, backend="eager")(x), wanted)
    torch.testing.assert_close(torch.export.export(position, (x,)).module()(x), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("example", [(4, 6), (5, 3)], ids=str)
def test_exports_with_any_grid(example: tuple[int, int]) -> None:
    """The program takes the table's own grid and others, whichever it was exported with."""
    position = LearnedPosition2d(3, grid=(4, 6))
    height, width = Dim("height", min=2, max=64), Dim("width", min=2, max=64)
    program = export(position, (torch.randn(2, *example, 3),), dynamic_shapes=({1: height, 2: width},)).module()
    for grid in ((4, 6), (6, 4), (4, 5), (9, 6), (2, 2), (17, 30)):
        x = torch.randn(2, *grid, 3)
        torch.testing.assert_close(program(x), position(x))
        table = timm_resampled(position.table.detach(), grid) if grid != (4, 6) else position.table
        torch.testing.assert_close(program(x), x + table)


def test_refuses_unfit_sizes() -> None:
    with pytest.raises(ValueError, match=r"must be positive, got dim=3, grid=\(0, 4\)"):
        LearnedPosition2d(3, grid=(0, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(B, H, W, 3\).*got \(2, 3, 4, 4\)"):
        LearnedPosition2d(3, grid=(4, 4))(torch.zeros(2, 3, 4, 4))
    with pytest.raises(RuntimeError, match="size mismatch for table"):
        LearnedPosition2d(3, grid=(4, 4)).load_state_dict({"table": torch.zeros(5, 5, 2)})
