import pytest
import torch
from torch import nn

from attention_blocks import SequenceBatchNorm


def test_training_normalises_each_feature_over_all_positions() -> None:
    norm = SequenceBatchNorm(4).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64) * 3 + 2
    rows = torch.stack([x[b, t] for b in range(3) for t in range(5)])
    mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    torch.testing.assert_close(norm(x), (x - mean) / (variance + 1e-5).sqrt())


def test_evaluation_uses_running_statistics() -> None:
    norm = SequenceBatchNorm(4, momentum=1.0).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64) * 3 + 2
    norm(x)
    other = torch.randn(2, 1, 4, dtype=torch.float64)
    rows = x.reshape(15, 4)
    torch.testing.assert_close(norm.eval()(other), (other - rows.mean(0)) / (rows.var(0) + 1e-5).sqrt())


def test_accepts_inputs_that_are_not_contiguous() -> None:
    norm = SequenceBatchNorm(4).eval()
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(norm(x[:, :1]), norm(x)[:, :1])
    torch.testing.assert_close(norm(x.transpose(0, 1)), norm(x).transpose(0, 1))


def test_can_be_synchronised_across_processes() -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(SequenceBatchNorm(4)).eval()  # type: ignore[no-untyped-call]
    assert isinstance(converted, SequenceBatchNorm)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    x = torch.randn(3, 5, 4)
    torch.testing.assert_close(converted(x), x / (1 + 1e-5) ** 0.5)


def test_training_on_one_position_uses_running_statistics() -> None:
    norm = SequenceBatchNorm(4, momentum=0.5).double()
    norm(torch.randn(3, 5, 4, dtype=torch.float64) * 3 + 2)
    before, x = {name: value.clone() for name, value in norm.state_dict().items()}, torch.randn(1, 1, 4).double()
    found = norm(x)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    assert all(module.training for module in norm.modules())
    torch.testing.assert_close(found, norm.eval()(x))


@pytest.mark.parametrize("shape", [(2, 1, 4), (1, 2, 4)], ids=str)
def test_two_positions_are_ordinary_training(shape: tuple[int, ...]) -> None:
    norm, x = SequenceBatchNorm(4).double(), torch.randn(shape, dtype=torch.float64)
    found, rows = norm(x), x.view(2, 4)
    torch.testing.assert_close(found.view(2, 4), (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt())
    assert norm.norm.num_batches_tracked is not None
    assert norm.norm.num_batches_tracked.item() == 1
