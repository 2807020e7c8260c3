"""The feature cache: training equals training without it, and files are reused only if nothing differs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from datamodules import CaptionBatch, DigitGridDataModule, RandomFlip
from lightning_modules import CacheFeatures, Captioner, FreezeBackbone, RNNCaptioner
from lightning_modules.captioning.feature_cache import weights_key, write_rows

if TYPE_CHECKING:
    from tests.lightning_modules.conftest import MakeCaptioner, MakeClassifier, MakeLoader, MakeTrainer


def grids(**arguments: Any) -> DigitGridDataModule:  # noqa: ANN401
    return DigitGridDataModule(**{"cell_size": 8, "train_size": 20, "val_size": 4, "batch_size": 8, **arguments})


def captioner(data: DigitGridDataModule) -> Captioner:
    from tests.lightning_modules.conftest import CAPTION_RNN

    torch.manual_seed(3)
    return RNNCaptioner(data.target_tokenizer, data.transform, partial(CAPTION_RNN, attention=None))


def trained(callback: FreezeBackbone, make_trainer: MakeTrainer) -> Captioner:
    data = grids()
    system = captioner(data)
    make_trainer(max_epochs=2, callbacks=[callback]).fit(system, data)
    return system


def test_training_is_the_same_as_through_a_frozen_backbone(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    cached = trained(CacheFeatures(tmp_path), make_trainer).state_dict()
    for name, value in trained(FreezeBackbone(-1), make_trainer).state_dict().items():
        torch.testing.assert_close(cached[name], value, msg=name)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_backbone_that_is_thawed_at_an_epoch_learns_from_then_on(make_trainer: MakeTrainer) -> None:
    data = grids()
    system = captioner(data)
    before = {name: value.clone() for name, value in system.network.backbone.named_parameters()}
    moved: list[bool] = []

    class Look(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            now = dict(system.network.backbone.named_parameters())
            moved.append(any(not torch.equal(value, now[name]) for name, value in before.items()))

    make_trainer(max_epochs=3, callbacks=[FreezeBackbone(2), Look()]).fit(system, data)
    assert moved == [False, False, True]


def test_batches_carry_what_the_backbone_makes_of_their_images(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    data = grids()
    system = captioner(data)
    plain = data.dataset("train")[[3, 0, 19]]
    seen: list[CaptionBatch] = []

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append(data.dataset("train")[[3, 0, 19]])

    make_trainer(callbacks=[CacheFeatures(tmp_path, batch_size=3), Look()]).fit(system, data)
    [batch] = seen
    assert batch.images is None
    assert batch.features is not None
    torch.testing.assert_close(batch.features, system.eval().network.backbone(plain.images))
    assert batch.features.permute(0, 2, 3, 1).is_contiguous()
    assert data.dataset("val")[[0]].features is None
    # The next system may have another backbone.
    assert data.dataset("train")[[0]].features is None


def test_mirror_images_are_seen_as_often(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    data = grids()
    system = captioner(data)
    images = data.dataset("train")[[3, 0, 19]].images
    assert images is not None
    seen: list[torch.Tensor] = []

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            for _ in range(100):
                features = data.dataset("train")[[3, 0, 19]].features
                assert features is not None
                assert features.permute(0, 2, 3, 1).is_contiguous()
                seen.append(features)

    make_trainer(callbacks=[CacheFeatures(tmp_path, mirrored=True), Look()]).fit(system, data)
    assert len(list(tmp_path.iterdir())) == 2
    backbone = system.eval().network.backbone
    with torch.no_grad():
        looks = torch.stack([backbone(images), backbone(images.flip(3))])
    # Which of the two each of the 3 images had, 100 times; 300 coin flips are within these bounds but once in 10^8.
    close = torch.stack([torch.isclose(looks, one, atol=1e-5).flatten(2).all(dim=2) for one in seen])
    assert bool((close.sum(dim=1) == 1).all())
    assert 100 < int(close[:, 1].sum()) < 200
    # The files stay for a cache without mirror images, and the images are restored.
    assert data.dataset("train").mirrored_features is None
    make_trainer(callbacks=[CacheFeatures(tmp_path)]).fit(system, data)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_backbone_looks_once_and_never_learns(
    tmp_path: Path, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, looks = grids(), []
    for _ in range(2):
        system = captioner(data)
        before = {name: value.clone() for name, value in system.network.backbone.state_dict().items()}
        looks.append(0)

        def count(*_: object) -> None:
            looks[-1] += 1

        system.network.backbone.register_forward_hook(count)
        make_trainer(max_epochs=3, callbacks=[CacheFeatures(tmp_path)], limit_val_batches=0).fit(system, data)
        for name, value in system.network.backbone.state_dict().items():
            assert torch.equal(value, before[name])
    assert looks == [3, 0]  # 20 images in batches of 8, then none


@pytest.mark.parametrize("content", [b"", b"no features", "cut"])
def test_a_damaged_file_is_named(content: bytes | str, tmp_path: Path, make_trainer: MakeTrainer) -> None:
    trained(CacheFeatures(tmp_path), make_trainer)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100] if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=rf"{file.name} is damaged \(.*\); delete it"):
        trained(CacheFeatures(tmp_path), make_trainer)
    file.unlink()
    trained(CacheFeatures(tmp_path), make_trainer)


def test_another_look_has_another_file(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    def files(system: Captioner, data: DigitGridDataModule) -> int:
        make_trainer(callbacks=[CacheFeatures(tmp_path)], fast_dev_run=True).fit(system, data)
        return len(list(tmp_path.iterdir()))

    data = grids()
    assert files(captioner(data), data) == 1
    other = captioner(data)
    with torch.no_grad():
        next(other.network.backbone.parameters())[0, 0, 0, 0] += 1e-6
    assert files(other, data) == 2  # other weights
    assert files(captioner(grids(seed=1)), grids(seed=1)) == 3  # other images


def test_the_key_sees_weights_and_structure() -> None:
    first, second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    second.load_state_dict(first.state_dict())
    assert weights_key(first) == weights_key(second)
    assert weights_key(first) != weights_key(first, "images")
    assert weights_key(first) != weights_key(first.half())
    strided = nn.Conv2d(2, 2, 1, stride=2)
    strided.load_state_dict(second.state_dict())
    assert weights_key(second) != weights_key(strided)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "rows.npy"
    parts = [torch.arange(6.0).view(3, 2), torch.arange(4.0).view(2, 2)]
    write_rows(path, iter(parts), 5)
    assert np.array_equal(np.load(path), torch.cat(parts).numpy())

    def broken() -> Any:  # noqa: ANN401
        yield parts[0]
        raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        write_rows(tmp_path / "other.npy", broken(), 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder"]


def test_what_cannot_be_cached_is_named(
    tmp_path: Path,
    make_trainer: MakeTrainer,
    make_classifier: MakeClassifier,
    make_loader: MakeLoader,
    make_captioner: MakeCaptioner,
) -> None:
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        CacheFeatures(batch_size=0)
    trainer = make_trainer(callbacks=[CacheFeatures(tmp_path)])
    with pytest.raises(ValueError, match="needs a captioner and a CaptionDataModule, got ViTClassifier"):
        trainer.fit(make_classifier(), make_loader())
    data = grids()
    data.dataset("train").augmentation = (RandomFlip(),)
    warped = grids(augmentation=(RandomFlip(),))
    for changing in (data, warped):
        with pytest.raises(ValueError, match=r"give the data augmentation=\[\]"):
            make_trainer(callbacks=[CacheFeatures(tmp_path)]).fit(captioner(changing), changing)
    with pytest.raises(ValueError, match="another FreezeBackbone cannot unfreeze"):
        make_trainer(callbacks=[CacheFeatures(tmp_path), FreezeBackbone(1)]).fit(captioner(grids()), grids())
