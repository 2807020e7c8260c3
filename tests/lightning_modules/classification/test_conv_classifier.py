"""Classifiers with attention inserted into a CNN: training, checkpoints, gates and their plots."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from attention_blocks import (
    CBAM,
    CoordinateAttention,
    EaseIn,
    FeatureMapAttention,
    GlobalContext,
    SelectiveKernel,
    SelfAttention2d,
    SimAM,
    SqueezeExcite,
    inserted,
)
from datamodules import ImageTransform
from lightning_modules import ConvClassifier, SmallResNet, TimmNetwork
from tests.lightning_modules.conftest import MakeTrainer, RunCommand

TINY = partial(SmallResNet, widths=(8, 16), depth=1)
TRANSFORM = ImageTransform(12, channels=1)


def torchvision_network(num_classes: int, image_size: tuple[int, int], in_channels: int) -> nn.Module:
    """A network of another library."""
    return torchvision.models.resnet18(num_classes=num_classes)


def convolutional_network(num_classes: int, image_size: tuple[int, int], in_channels: int) -> nn.Module:
    """A network whose head is a convolution, before modules without weights."""
    stage = nn.Sequential(nn.Conv2d(in_channels, 8, 3), nn.BatchNorm2d(8))
    return nn.Sequential(stage, nn.Conv2d(8, num_classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def own_network(num_classes: int, image_size: tuple[int, int], in_channels: int) -> nn.Module:
    """A network with attention of its own."""
    stage = nn.Sequential(nn.Conv2d(in_channels, 8, 3), CBAM(8, reduction=2))
    return nn.Sequential(stage, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def two_blocks(channels: int) -> nn.Module:
    """Attention that is built from two blocks."""
    return nn.Sequential(SimAM(channels), nn.ReLU(), OwnAttention(channels))


def _loader() -> DataLoader[tuple[torch.Tensor, ...]]:
    return DataLoader(TensorDataset(torch.randn(16, 1, 12, 12), torch.arange(16) % 3), batch_size=8)


class OwnAttention(FeatureMapAttention):
    """A user's own block."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = nn.Parameter(torch.ones(1))

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * x.mean(1, keepdim=True)).sigmoid()


@pytest.mark.parametrize(
    "attention",
    [
        None,
        partial(CBAM, reduction=4),
        partial(EaseIn, block=SimAM),
        SelfAttention2d,
        CoordinateAttention,
        OwnAttention,
    ],
)
def test_it_trains_and_its_checkpoint_predicts_the_same(
    attention: type[FeatureMapAttention] | None, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, attention, class_names=["ant", "bee", "cow"])
    trainer = make_trainer(max_epochs=2)
    trainer.fit(model, _loader(), _loader())
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    loaded = ConvClassifier.load_from_checkpoint(tmp_path / "it.ckpt", map_location="cpu")
    image = torch.rand(1, 20, 30)
    assert loaded.classify([image]) == model.cpu().classify([image])
    assert list(inserted(loaded.network)) == list(inserted(model.network))


def test_the_backbone_learns_at_a_fraction_of_the_rate_of_head_and_attention() -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour, layer_decay=0.125)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.network.named_parameters():
        new = name.startswith("head") or ".attention." in name
        assert rates[id(parameter)] == (1e-3 if new else 1.25e-4), name


class SqueezeExciteOfFour(SqueezeExcite):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, hidden_channels=4)


def test_loading_a_checkpoint_does_not_read_the_trained_weights_again(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Checkpoints are self-contained: the file that the backbone started from may be gone."""
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    backbone = partial(TimmNetwork, name="resnet18", pretrained=str(file))
    model = ConvClassifier(3, ImageTransform(32), backbone, partial(EaseIn, block=CBAM), where=[8])
    trainer = make_trainer(max_epochs=1)
    images = DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4) % 3), batch_size=4)
    trainer.fit(model, images)
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    file.unlink()
    loaded, x = ConvClassifier.load_from_checkpoint(tmp_path / "it.ckpt"), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.predict(x), model.cpu().predict(x))


@pytest.mark.slow
def test_a_checkpoint_is_tested_without_the_weights_that_it_started_from(
    run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("resnet10t").state_dict(), file)
    words = (
        *("--model", "ConvClassifier", "--data", "DigitsDataModule", "--trainer.max_steps", "1"),
        *("--model.network", "TimmNetwork", "--model.network.init_args.name", "resnet10t"),
        *("--model.network.init_args.pretrained", str(file), "--trainer.limit_test_batches", "2"),
    )
    fitted = run_command("fit", *words, "--trainer.limit_val_batches", "0")
    assert fitted.cli is not None, fitted.err
    fitted.cli.trainer.save_checkpoint(tmp_path / "it.ckpt")
    file.unlink()
    tested = run_command("test", *words, "--ckpt_path", str(tmp_path / "it.ckpt"))
    assert tested.cli is not None, tested.err
    assert "weights.safetensors" in run_command("test", *words).err


@pytest.mark.parametrize(
    ("attention", "kinds"),
    [
        (partial(CBAM, reduction=4), {"channels": (2, 16, 1, 1), "locations": (2, 1, 6, 6)}),
        (CoordinateAttention, {"rows": (2, 16, 6, 1), "columns": (2, 16, 1, 6)}),
        (partial(EaseIn, block=SqueezeExciteOfFour), {"gate, 0% of it": (2, 16, 1, 1)}),
        (SimAM, {"gate": (2, 16, 6, 6)}),
        (partial(GlobalContext, reduction=4), {"gate": (2, 1, 6, 6)}),
        (partial(SelectiveKernel, groups=1), {"gate": (2, 2, 16, 1, 1)}),
    ],
)
def test_gates_by_location_and_their_plot(
    attention: type[FeatureMapAttention], kinds: dict[str, tuple[int, ...]]
) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, attention, class_names=["ant", "bee", "cow"])
    images = [torch.rand(1, 12, 12), torch.rand(1, 20, 30)]
    gates = model.attention_gates(images)
    assert {name: tuple(gate.shape) for name, gate in gates.items() if "stages.1" in name} == {
        f"stages.1.0.norm2 {kind}": shape for kind, shape in kinds.items()
    }
    axes = model.plot(images).axes
    assert len(axes) == 2 * (1 + len(gates))
    assert axes[0].get_title().split()[0] in ("ant", "bee", "cow")
    for axis, (name, gate) in zip(axes[1 : 1 + len(gates)], gates.items(), strict=True):
        title, _, spread = axis.get_title().partition("\n")
        assert title == (f"{name}, path 1 of 2" if gate.ndim == 5 else name)
        if gate.shape[2:] != (1, 1) and gate.ndim == 4:  # the range, since the colours are scaled to its maximum
            least, most = gate[0].mean(0).min(), gate[0].mean(0).max()
            assert spread == f"{least:.2f} to {most:.2f}"


def test_the_gates_are_those_that_multiply_the_feature_map() -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour).eval()
    seen: list[torch.Tensor] = []
    block = inserted(model.network)["stages.0.0.norm2"]
    block.register_forward_hook(lambda block, inputs, output: seen.append(output / inputs[0]))
    gates = model.attention_gates([torch.rand(1, 12, 12)])
    torch.testing.assert_close(seen[0], gates["stages.0.0.norm2 gate"].expand_as(seen[0]))


def test_a_block_without_a_gate_is_not_drawn() -> None:
    """Any module can be eased in, and not all multiply."""
    model = ConvClassifier(3, TRANSFORM, TINY, partial(EaseIn, block=nn.InstanceNorm2d), "stages.1")
    assert model.attention_gates([torch.rand(1, 12, 12)]) == {}


def test_the_head_of_a_users_network_is_its_last_child() -> None:
    model = ConvClassifier(3, ImageTransform(32), torchvision_network, SimAM, "layer4")
    [layer] = model.layers()
    own = {id(parameter) for parameter in layer.parameters()}
    rest = [name for name, parameter in model.network.named_parameters() if id(parameter) not in own]
    assert rest == ["fc.weight", "fc.bias"]


def test_the_layers_hold_neither_the_head_nor_attention_inside_of_a_stage_or_after_the_head() -> None:
    model = ConvClassifier(3, TRANSFORM, convolutional_network, OwnAttention, ["0.1", "0", "1", "2"])
    [layer] = model.layers()
    own = {id(parameter) for parameter in layer.parameters()}
    names = [name for name, parameter in model.network.named_parameters() if id(parameter) in own]
    assert names == [f"0.host.{name}" for name in ("0.weight", "0.bias", "1.host.weight", "1.host.bias")]


@pytest.mark.parametrize("training", [False, True])
def test_asking_for_gates_changes_no_mode_and_leaves_other_calls_alone(training: bool) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour).train(training)
    block = inserted(model.network)["stages.0.0.norm2"]
    seen: list[tuple[bool, int]] = []
    # In a namespace, since modules that a hook refers to itself are replaced by those that are called.
    shared = SimpleNamespace(network=model.network, block=block)
    block.register_forward_pre_hook(
        lambda *_: seen.append((shared.network.training, len(shared.block._forward_pre_hooks)))
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert list(model.attention_gates([torch.rand(1, 12, 12)])) == ["stages.0.0.norm2 gate", "stages.1.0.norm2 gate"]
    assert seen == [(training, 1)]
    assert all(part.training is training for part in model.network.modules())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_gates_of_blocks_that_are_not_inserted_and_of_a_list_of_blocks() -> None:
    model = ConvClassifier(3, TRANSFORM, own_network, two_blocks, "0")  # type: ignore[arg-type]
    names = ["0.1 channels", "0.1 locations", "0.0 gate", "0.2 gate"]
    assert list(model.attention_gates([torch.rand(1, 12, 12)])) == names


def test_converting_to_sync_batch_norm_keeps_the_attention() -> None:
    """Lightning replaces the batch norms after which the blocks are inserted."""
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour).eval()
    x = torch.rand(2, 1, 12, 12)
    wanted = model.network(x)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    assert torch.equal(model.network(x), wanted)


def test_a_network_without_attention_cannot_be_plotted() -> None:
    with pytest.raises(ValueError, match="no attention"):
        ConvClassifier(3, TRANSFORM, TINY).plot([torch.rand(1, 12, 12)])
