from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lightning_modules.cli.network_summary import NetworkSummary

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeClassifier, MakeLoader, MakeTrainer


def test_the_summary_shows_networks_and_no_metrics(
    make_classifier: MakeClassifier,
    make_loader: MakeLoader,
    make_trainer: MakeTrainer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    system = make_classifier()
    next(iter(system.network.parameters())).requires_grad_(False)
    frozen = next(iter(system.network.parameters())).numel()
    make_trainer(callbacks=[NetworkSummary()], enable_model_summary=True).fit(system, make_loader())
    out = capsys.readouterr().out
    total = sum(parameter.numel() for parameter in system.parameters())
    for word in ("network", "VisionTransformer", f"{total:,}", f"{total - frozen:,}"):
        assert word in out
    assert "Accuracy" not in out
    assert "Metric" not in out
