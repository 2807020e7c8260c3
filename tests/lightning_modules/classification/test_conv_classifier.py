from __future__ import annotations

from functools import partial
from pathlib import Path

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
from lightning_modules import ConvClassifier, FreezeBackbone, SmallResNet, TimmNetwork
from tests.lightning_modules.conftest import MakeTrainer, RunCommand

TINY = partial(SmallResNet, widths=(8, 16), depth=1)
TRANSFORM = ImageTransform(12, channels=1)


def torchvision_network(num_classes: int, image_size: tuple[int, int], in_channels: int) -> nn.Module:
    """A network of somebody else's."""
    return torchvision.models.resnet18(num_classes=num_classes)


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
def test_trains_loads_and_says_the_same(
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


def test_locations_are_the_networks_own_or_given() -> None:
    ours = ConvClassifier(3, TRANSFORM, TINY, SimAM)
    assert list(inserted(ours.network)) == ["stages.0.0.norm2", "stages.1.0.norm2"]
    given = ConvClassifier(3, TRANSFORM, TINY, SimAM, where=[1, "stem.0"])
    assert list(inserted(given.network)) == ["stem.0", "stages.0"]


def own_network(num_classes: int, image_size: tuple[int, int], channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def test_a_network_without_attention_locations_needs_where() -> None:
    with pytest.raises(ValueError, match=r"where: Sequential .* attention_locations"):
        ConvClassifier(3, TRANSFORM, own_network, SimAM)
    assert list(inserted(ConvClassifier(3, TRANSFORM, own_network, SimAM, where="0").network)) == ["0"]


def test_the_backbone_learns_at_a_share_of_the_rate_of_head_and_attention() -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour, layer_decay=0.125)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.network.named_parameters():
        new = name.startswith(("head", "inserted_attention"))
        assert rates[id(parameter)] == (1e-3 if new else 1.25e-4), name


class SqueezeExciteOfFour(SqueezeExcite):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, hidden_channels=4)


def test_trained_weights_are_not_asked_for_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """A checkpoint is whole: the file that the backbone began with may be gone."""
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


def test_a_checkpoint_is_tested_without_the_weights_that_it_began_with(
    run_command: RunCommand, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
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
    assert "there is no file" in run_command("test", *words).err


def test_a_frozen_backbone_stands_still_until_its_epoch(make_trainer: MakeTrainer) -> None:
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour)
    trainer = make_trainer(max_epochs=1, callbacks=[FreezeBackbone(epochs=1)])

    def state() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in model.network.state_dict().items()}

    before = state()
    trainer.fit(model, _loader(), _loader())
    frozen = state()
    for name, value in frozen.items():
        new = name.startswith(("head", "inserted_attention"))
        assert torch.equal(value, before[name]) is not new, name
    trainer = make_trainer(max_epochs=2, callbacks=[FreezeBackbone(epochs=1)])
    trainer.fit(model, _loader(), _loader())
    assert all(not torch.equal(value, frozen[name]) for name, value in state().items())


def test_freezing_wants_layers(make_trainer: MakeTrainer) -> None:
    class Headless(ConvClassifier):
        def layers(self) -> list[nn.Module]:
            return []

    with pytest.raises(ValueError, match=r"Headless names no layers\(\), so it has no backbone to freeze"):
        make_trainer(max_epochs=1, callbacks=[FreezeBackbone(1)]).fit(Headless(3, TRANSFORM, TINY), _loader())
    with pytest.raises(ValueError, match="epochs must be 0 or more, or -1 for all of them, got -2"):
        FreezeBackbone(-2)


@pytest.mark.parametrize(
    ("attention", "kinds"),
    [
        (partial(CBAM, reduction=4), {"channels": (2, 16, 1, 1), "places": (2, 1, 6, 6)}),
        (CoordinateAttention, {"rows": (2, 16, 6, 1), "columns": (2, 16, 1, 6)}),
        (partial(EaseIn, block=SqueezeExciteOfFour), {"gate, 0% of it": (2, 16, 1, 1)}),
        (SimAM, {"gate": (2, 16, 6, 6)}),
        (partial(GlobalContext, reduction=4), {"gate": (2, 1, 6, 6)}),
        (partial(SelectiveKernel, groups=1), {"gate": (2, 2, 16, 1, 1)}),
    ],
)
def test_gates_by_place_and_their_picture(
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
        if gate.shape[2:] != (1, 1) and gate.ndim == 4:  # how far it spreads, since the colours only go up to its most
            least, most = gate[0].mean(0).min(), gate[0].mean(0).max()
            assert spread == f"{least:.2f} to {most:.2f}"


def test_the_gates_are_those_that_multiply() -> None:
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


def test_the_head_of_a_network_of_ones_own_is_its_last_part() -> None:
    model = ConvClassifier(3, ImageTransform(32), torchvision_network, SimAM, "layer4")
    [layer] = model.layers()
    own = {id(parameter) for parameter in layer.parameters()}
    rest = [name for name, parameter in model.network.named_parameters() if id(parameter) not in own]
    assert rest == ["fc.weight", "fc.bias"]


def test_training_in_step_keeps_its_attention() -> None:
    """Lightning replaces batch norms for it, behind which the blocks stand."""
    model = ConvClassifier(3, TRANSFORM, TINY, SqueezeExciteOfFour).eval()
    x = torch.rand(2, 1, 12, 12)
    wanted = model.network(x)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    model.on_train_start()
    assert torch.equal(model.network(x), wanted)


def test_refuses_what_does_not_create_a_network() -> None:
    with pytest.raises(TypeError, match=r"as functools.partial\(TimmNetwork, name='resnet18'\) does, got 'resnet18'"):
        ConvClassifier(3, TRANSFORM, "resnet18")  # type: ignore[arg-type]


def test_refuses_to_draw_without_attention() -> None:
    with pytest.raises(ValueError, match="there is no attention in this network"):
        ConvClassifier(3, TRANSFORM, TINY).plot([torch.rand(1, 12, 12)])
