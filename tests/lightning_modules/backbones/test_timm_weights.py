"""Weights and settings of timm's ViTs in ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import System, ViTClassifier
from lightning_modules.backbones.timm_weights import create_timm_vit, network_like, renamed_state

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeTrainer

NAMES = ["vit_tiny_patch16_224", "deit_tiny_patch16_224", "test_vit", "test_vit2"]
Create = Callable[..., nn.Module]


def randomise(model: nn.Module) -> nn.Module:
    """Every parameter matters: also those that start as 0 or 1, and LayerScale, which starts at almost nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5 if name.endswith("gamma") else 0.05)
    return model.eval()


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Models that timm creates during the test, with random weights."""
    models: list[nn.Module] = []
    create: Create = timm.create_model

    def create_and_keep(*args: object, **kwargs: object) -> nn.Module:
        models.append(randomise(create(*args, **kwargs)))
        return models[-1]

    monkeypatch.setattr(timm, "create_model", create_and_keep)
    return models


@pytest.fixture
def shapes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of any size quickly: timm creates them with one layer and on the meta device."""
    create: Create = timm.create_model

    def create_without_values(name: str, **kwargs: object) -> nn.Module:
        with torch.device("meta"):
            try:
                return create(name, depth=1, **kwargs)
            except (TypeError, AssertionError):  # it has no such thing as a depth, or not one alone
                return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create_without_values)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_timms(name: str, created: list[nn.Module]) -> None:
    ours = ViTClassifier.from_timm(name)
    [theirs] = created
    images = torch.randn(2, 3, *ours.transform.image_size)
    with torch.no_grad():
        assert_close(ours.eval()(images), theirs(images))


@pytest.mark.parametrize(("name", "image_size"), [("test_vit", (64, 96)), ("test_vit2", 192), ("test_vit", 208)])
def test_outputs_are_timms_at_another_resolution(
    name: str, image_size: int | tuple[int, int], created: list[nn.Module]
) -> None:
    ours = ViTClassifier.from_timm(name, image_size=image_size)
    [theirs] = created
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    assert ours.transform.image_size == size
    resized: Any = timm.create_model(name, img_size=size)
    resized.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), resized))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_close(ours.eval()(images), resized(images))


@pytest.mark.parametrize(
    "settings",
    [
        {"reg_tokens": 2},
        {"reg_tokens": 2, "no_embed_class": True},
        {"init_values": 1e-5},
        {"qk_norm": True, "qkv_bias": False},
        {"class_token": False, "global_pool": "avg", "fc_norm": True},
        {"global_pool": "avg", "reg_tokens": 1, "fc_norm": True},
        {"class_token": False, "global_pool": "avg", "fc_norm": True, "reg_tokens": 3, "no_embed_class": True},
        {"mlp_ratio": 1.5, "num_heads": 4, "depth": 3, "patch_size": 32, "embed_dim": 32},
        {"num_classes": 7},
        {"num_classes": 0},
        {"img_size": (32, 64)},
    ],
    ids=str,
)
def test_every_variant_of_the_plain_family_is_timms(settings: dict[str, Any]) -> None:
    theirs: Any = randomise(timm.create_model("test_vit", **settings))
    size = theirs.patch_embed.img_size
    ours = network_like(theirs)(theirs.num_classes, size, 3).eval()
    ours.load_state_dict(renamed_state(theirs))
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert_close(ours(images), theirs(images))


@pytest.mark.slow
def test_every_plain_vit_of_timm_fits(shapes_only: None) -> None:
    """Names and shapes of all weights, for whatever timm has that is not refused."""
    fitting = 0
    for name in timm.list_models(["vit*", "deit*", "flexivit*", "eva_large*", "test_vit*"]):
        try:
            theirs: Any = create_timm_vit(name, pretrained=False)
        except ValueError:
            continue
        with torch.device("meta"):
            ours = network_like(theirs)(theirs.num_classes, theirs.patch_embed.img_size, 3)
            ours.load_state_dict(renamed_state(theirs))
        fitting += 1
    assert fitting >= 60


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", "it is a VisionTransformerDistilled"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer"),
        ("vit_base_patch32_clip_224", "it has a norm before its layers"),
        ("resnet18", "it is a ResNet"),
        ("test_vit3", "it pools by 'map'"),
        ("test_vit4", "its norms are of another kind"),
        ("vit_tiny_r_s16_p8_224", "its patch embedding is not linear"),
        ("vit_base_patch16_gap_224", "it pools after its norm"),
        ("vit_pwee_patch16_reg1_gap_256", "its layers are of another kind"),
        ("vit_giant_patch14_dinov2", "its attention or feed-forward is of another kind"),
        ("vit_relpos_small_patch16_224", "it is a VisionTransformerRelPos"),
    ],
)
def test_other_families_are_refused(name: str, reason: str, shapes_only: None) -> None:
    with pytest.raises(ValueError, match=rf"name: '{name}' .*\({reason}\)"):
        ViTClassifier.from_timm(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("deit_tiny", "deit_"),
        ("vit_tiny_patch16_224.augreg", "vit_tiny_patch16_224.augreg_in21k"),
        ("xyz", r"a vit_\* or deit_\*"),
    ],
)
def test_an_unknown_name_gets_its_near_matches(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"name: .*'{name}'.* {near}"):
        ViTClassifier.from_timm(name)


def test_a_tagged_name_means_the_same_network(created: list[nn.Module]) -> None:
    ours = ViTClassifier.from_timm("test_vit.r160_in1k", class_names=[f"class {index}" for index in range(1000)])
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert_close(ours.eval()(images), created[0](images))
    assert ours.class_names[999] == "class 999"


def test_another_number_of_classes_gets_an_untrained_head(created: list[nn.Module]) -> None:
    ours = ViTClassifier.from_timm("test_vit", num_classes=5, class_names=list("abcde"), image_size=32)
    [theirs] = created
    weight = ours.network.state_dict()["head.weight"]
    assert weight.shape == (5, 64)
    assert weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert torch.equal(ours.network.state_dict()["norm.weight"], theirs.state_dict()["norm.weight"])
    assert ours.class_names == list("abcde")


@pytest.mark.parametrize("num_classes", [0, 1])
def test_too_few_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match=rf"num_classes .*got {num_classes}"):
        ViTClassifier.from_timm("test_vit", num_classes=num_classes)


def test_image_net_has_its_class_names() -> None:
    ours = ViTClassifier.from_timm("test_vit", image_size=32)
    assert len(ours.class_names) == 1000
    assert ours.class_names[0].startswith("tench")
    [guesses] = ours.classify([Image.new("RGB", (40, 30))], top=3)
    assert {guess.label for guess in guesses} <= set(ours.class_names)


def test_arguments_of_the_class_and_a_users_subclass() -> None:
    class Mine(ViTClassifier):
        pass

    ours = Mine.from_timm("test_vit", image_size=32, num_classes=3, label_smoothing=0.25, layer_decay=0.5)
    assert type(ours) is Mine
    assert ours.hparams["label_smoothing"] == 0.25
    with pytest.raises(ValueError, match=r"16 .* 40; .*32 or 48"):
        ViTClassifier.from_timm("test_vit", image_size=40)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_the_transform_is_timms(name: str) -> None:
    model: Any = timm.create_model(name)
    config = resolve_data_config({}, model=model)
    theirs: Any = create_transform(**config, is_training=False)
    ours = ViTClassifier.from_timm(name).transform
    rows, columns = np.mgrid[0:300, 0:400]
    picture = np.stack([rows % 256, columns % 200, (rows + columns) // 3 % 256], axis=-1).astype(np.uint8)
    image = Image.fromarray(picture)
    expected = theirs(image)
    result = ours(image)
    assert result.shape == expected.shape
    assert (result - expected).abs().mean() < 0.01
    assert ours.crop == config["crop_pct"]


@pytest.mark.parametrize("settings", [{"proj_bias": False}, {"norm_layer": "rmsnorm"}, {"norm_layer": nn.LayerNorm}])
def test_other_variants_are_refused(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("test_vit", **settings)
    monkeypatch.setattr(timm, "create_model", lambda name, **_: model)
    with pytest.raises(ValueError, match=r"name: 'test_vit' .*\(its (attention|norms)"):
        ViTClassifier.from_timm("test_vit")


def test_the_checkpoint_of_a_timm_model_loads(
    created: list[nn.Module], make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    model = ViTClassifier.from_timm("test_vit2", image_size=32, num_classes=3)
    trainer = make_trainer()
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])), 2))
    trainer.save_checkpoint(tmp_path / "timm.ckpt", weights_only=False)
    created.clear()
    loaded = System.load_from_checkpoint(tmp_path / "timm.ckpt", weights_only=True)
    assert isinstance(loaded, ViTClassifier)
    assert created == []
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.predict(images), model.predict(images))
    assert loaded.transform == model.transform
    torch.testing.assert_close(loaded.attention_maps(images).rollout.sum(dim=(1, 2)), torch.ones(2))
