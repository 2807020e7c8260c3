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
