import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from datamodules import BatchAugmentation, RandomErase, RandomFlip, RandomShift, RandomWarp, augment


def random_images(count: int, channels: int = 3, height: int = 6, width: int = 7) -> Tensor:
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8)


def rings(height: int, width: int, count: int) -> Tensor:
    """A disc with a soft edge at the centre of each image."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = ((rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2).sqrt()
    return torch.sigmoid(min(height, width) / 4 - distance).expand(count, 1, height, width)


def centres(images: Tensor) -> Tensor:
    """Row and column of each image's centre of mass, (B, 2)."""
    mass = images[:, 0].double()
    rows = (mass.sum(2) * torch.arange(mass.size(1))).sum(1)
    columns = (mass.sum(1) * torch.arange(mass.size(2))).sum(1)
    return torch.stack([rows, columns], dim=1) / mass.sum((1, 2)).unsqueeze(1)


class TestRandomFlip:
    def test_each_image_is_mirrored_or_not(self) -> None:
        images = random_images(400)
        flipped = RandomFlip(0.25)(images)
        mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(flipped, images, strict=True)]
        same = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
        assert sum(mirrored) + sum(same) == 400
        assert 60 < sum(mirrored) < 140  # more than 4 deviations either way

    def test_never_and_always(self) -> None:
        images = random_images(5)
        assert torch.equal(RandomFlip(0.0)(images), images)
        assert torch.equal(RandomFlip(1.0)(images), torch.from_numpy(np.flip(images.numpy(), 3).copy()))


class TestRandomShift:
    @pytest.mark.parametrize(("padding", "numpy_mode"), [("zeros", "constant"), ("reflect", "reflect")])
    def test_every_crop_of_the_padded_image_occurs_and_nothing_else(self, padding: str, numpy_mode: str) -> None:
        image = random_images(1)
        shifted = RandomShift(2, padding)(image.expand(600, -1, -1, -1))  # type: ignore[arg-type]
        padded = np.pad(image[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode=numpy_mode)  # type: ignore[call-overload]
        crops = {padded[:, top : top + 6, left : left + 7].tobytes() for top in range(5) for left in range(5)}
        assert {new.numpy().tobytes() for new in shifted} == crops
        assert shifted.dtype == torch.uint8

    def test_images_are_not_mixed_up(self) -> None:
        images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 8, 8) + 1
        shifted = RandomShift(3, "reflect")(images)
        assert torch.equal(shifted, images)

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="pixels must be 0 or more, got -1"):
            RandomShift(-1)
        with pytest.raises(ValueError, match="'zeros' or 'reflect', got 'edge'"):
            RandomShift(1, "edge")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"pixels=6 must .* 6x7"):
            RandomShift(6, "reflect")(random_images(1))


class TestRandomWarp:
    def test_by_default_the_image_is_unchanged(self) -> None:
        images = random_images(3)
        assert torch.equal(RandomWarp()(images), images)

    @pytest.mark.parametrize(("height", "width"), [(40, 40), (32, 64), (64, 32)])
    def test_a_rotated_disc_is_a_disc(self, height: int, width: int) -> None:
        discs = rings(height, width, 8)
        torch.testing.assert_close(RandomWarp(degrees=180)(discs), discs, atol=0.08, rtol=0)

    def test_each_image_is_rotated_within_bounds(self) -> None:
        bar = torch.zeros(200, 1, 41, 41)
        bar[:, :, 20, 21:] = 1.0  # from the centre to the right
        rows, columns = (centres(RandomWarp(degrees=30)(bar)) - 20).unbind(1)
        angles = torch.atan2(rows, columns).rad2deg()
        assert angles.abs().max() < 31
        assert angles.min() < -20
        assert angles.max() > 20

    def test_a_shift_is_within_bounds(self) -> None:
        discs = rings(40, 80, 200)
        moved = centres(RandomWarp(shift=0.1)(discs)) - centres(discs)
        assert moved[:, 0].abs().max() == pytest.approx(4, abs=0.25)
        assert moved[:, 1].abs().max() == pytest.approx(8, abs=0.5)
        assert torch.corrcoef(moved.T)[0, 1].abs() < 0.3

    def test_a_zoom_enlarges_and_reduces(self) -> None:
        discs = rings(64, 64, 200)
        sizes = (RandomWarp(zoom=0.2)(discs).sum((1, 2, 3)) / discs.sum((1, 2, 3))).sqrt()
        assert sizes.min().item() == pytest.approx(0.8, abs=0.03)
        assert sizes.max().item() == pytest.approx(1.2, abs=0.03)

    def test_bytes_stay_bytes(self) -> None:
        assert RandomWarp(10, 0.1, 0.1)(random_images(2)).dtype == torch.uint8


class TestRandomErase:
    def test_a_rectangle_of_the_given_area_is_erased_and_nothing_else(self) -> None:
        images = random_images(300, height=20, width=30)
        erased = RandomErase(1.0, area=(0.1, 0.2))(images)
        lost = (erased == 0).all(dim=1)
        assert torch.equal(erased, torch.where(lost.unsqueeze(1), torch.zeros_like(images), images))
        areas = []
        for one in lost:
            rows, columns = one.any(1).nonzero(), one.any(0).nonzero()
            assert one.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            areas.append(one.float().mean().item())
        # The sides are whole pixels.
        assert 0.08 < min(areas) < 0.12
        assert 0.17 < max(areas) < 0.23
        assert lost.any(dim=0).float().mean() > 0.9  # all over the image

    def test_a_whole_image_may_be_erased(self) -> None:
        erased = RandomErase(1.0, area=(1.0, 1.0))(random_images(50, height=9, width=20))
        lost = (erased == 0).all(dim=1)
        # The rectangle is not square, so one side may be shorter than the image's, but not both.
        assert (lost.any(2).all(1) | lost.any(1).all(1)).all()

    def test_some_images_are_unchanged(self) -> None:
        erased = RandomErase(0.5)(random_images(400, height=20, width=20))
        whole = (erased != 0).all(dim=1).flatten(1).all(dim=1).sum()
        assert 140 < whole < 270  # areas may be as small as 8 of 400 pixels

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="area"):
            RandomErase(area=(0.3, 0.2))


class TestAugment:
    def test_transforms_of_torchvision_draw_for_each_image(self) -> None:
        images = random_images(64)
        flipped = augment(images, [v2.RandomHorizontalFlip()])
        kept = sum(torch.equal(new, old) for new, old in zip(flipped, images, strict=True))
        assert 0 < kept < 64

    def test_augmentations_are_applied_in_order(self) -> None:
        images = random_images(2)
        assert torch.equal(augment(images, [RandomFlip(1.0), v2.CenterCrop(4)]), v2.CenterCrop(4)(images.flip(3)))
        assert torch.equal(augment(images, []), images)

    def test_the_global_seed_decides(self) -> None:
        images = random_images(32)
        steps = [RandomFlip(), RandomShift(2), RandomWarp(10, 0.1, 0.1), RandomErase()]
        torch.manual_seed(1)
        first = augment(images, steps)
        torch.manual_seed(1)
        assert torch.equal(augment(images, steps), first)
        assert not torch.equal(augment(images, steps), first)

    def test_forward_must_be_defined(self) -> None:
        with pytest.raises(NotImplementedError, match="BatchAugmentation must define forward"):
            augment(random_images(1), [BatchAugmentation()])


@pytest.mark.parametrize("build", [RandomFlip, RandomErase, lambda fraction: RandomWarp(shift=fraction)])
def test_fractions_lie_between_0_and_1(build: type[RandomFlip]) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        build(1.5)
