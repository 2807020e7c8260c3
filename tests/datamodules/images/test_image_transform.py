import dataclasses
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from PIL import Image
from torchvision import transforms as v1

from datamodules import ImageTransform, load_image, plain_image, read_image


def photo(height: int, width: int) -> Image.Image:
    """Smooth colours with some noise: sensitive to resampling, but not to single pixels."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return Image.fromarray((waves * 100 + 128 + noise).clip(0, 255).astype(np.uint8))


class TestReference:
    @pytest.mark.parametrize(("height", "width"), [(300, 300), (301, 450), (450, 301), (40, 60), (64, 500)])
    @pytest.mark.parametrize(("crop", "short"), [(1.0, 64), (0.875, 73), (0.5, 128)])
    def test_equals_torchvision_on_pil_images(self, height: int, width: int, crop: float, short: int) -> None:
        mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
        reference = v1.Compose(
            [
                v1.Resize(short, v1.InterpolationMode.BICUBIC),
                v1.CenterCrop(64),
                v1.ToTensor(),
                v1.Normalize(mean, std),
            ]
        )
        image = photo(height, width)
        ours = ImageTransform(64, mean=mean, std=std, crop=crop)(image)
        # Pillow rounds to bytes between its two passes.
        torch.testing.assert_close(ours, reference(image), atol=2.01 / 255 / 0.2, rtol=0)

    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_interpolation_by_name(self, interpolation: str) -> None:
        image = photo(90, 90)
        mode = {"bilinear": 2, "bicubic": 3}[interpolation]
        expected = torch.from_numpy(np.array(image.resize((30, 30), Image.Resampling(mode)))).permute(2, 0, 1)
        resized = ImageTransform(30, interpolation=interpolation).resize_and_crop(load_image(image))  # type: ignore[arg-type]
        torch.testing.assert_close(resized.int(), expected.int(), atol=1, rtol=0)

    def test_non_square_keeps_the_aspect_and_crops_the_centre(self) -> None:
        image = photo(100, 300)
        # To cover 50x60, the height must halve; of the 150 columns the middle 60 stay.
        expected = np.array(image.resize((150, 50), Image.Resampling.BICUBIC))[:, 45:105]
        resized = ImageTransform((50, 60)).resize_and_crop(load_image(image))
        assert resized.shape == (3, 50, 60)
        np.testing.assert_allclose(resized.permute(1, 2, 0).int(), expected.astype(int), atol=1)

    def test_normalises_by_the_formula(self) -> None:
        transform = ImageTransform(2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
        values = torch.tensor([[0, 51], [102, 255]], dtype=torch.uint8).expand(3, 2, 2)
        expected = (values.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).double().view(3, 1, 1)) / torch.tensor(
            [0.5, 0.25, 2.0]
        ).double().view(3, 1, 1)
        torch.testing.assert_close(transform(values).double(), expected, atol=1e-6, rtol=0)

    def test_denormalize_clamps_to_0_and_1(self) -> None:
        drawn = ImageTransform(2).denormalize(torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1))
        assert drawn.flatten().tolist() == [0.0, 0.5, 1.0]

    def test_denormalize_is_the_inverse(self) -> None:
        transform = ImageTransform(8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
        values = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(transform.denormalize(transform.normalize(values)), values)


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("1", 1, (255,)),
            ("L", 130, (130,)),
            ("LA", (100, 51), (224, 224, 224)),  # a fifth of 100, the rest white
            ("RGB", (10, 20, 30), (10, 20, 30)),
            ("RGBA", (0, 100, 255, 51), (204, 224, 255)),
            ("RGBA", (9, 9, 9, 0), (255, 255, 255)),
            ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
            ("I;16", 32896, (128,)),
            ("I", 65535, (255,)),
            ("F", 0.2, (51,)),
        ],
    )
    def test_every_mode_is_converted_to_its_colour(
        self, mode: str, colour: float | tuple[int, ...], expected: tuple[int, ...], tmp_path: Path
    ) -> None:
        path = tmp_path / "image.tiff"
        Image.new(mode, (3, 2), colour).save(path)
        values = load_image(path)
        assert values.shape == (len(expected), 2, 3)
        assert values.dtype == torch.uint8
        assert values[:, 1, 2].tolist() == list(expected)

    @pytest.mark.parametrize(("transparency", "expected"), [(None, (200, 10, 10)), (1, (255, 255, 255))])
    def test_palette(self, transparency: int | None, expected: tuple[int, ...], tmp_path: Path) -> None:
        image = Image.new("P", (2, 2), 1)
        image.putpalette([0, 0, 0, 200, 10, 10])
        image.save(tmp_path / "image.png", transparency=transparency)
        assert load_image(tmp_path / "image.png")[:, 0, 0].tolist() == list(expected)

    def test_sixteen_bit_png_keeps_its_range(self, tmp_path: Path) -> None:
        steps = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
        Image.fromarray(steps).save(tmp_path / "deep.png")
        assert load_image(tmp_path / "deep.png").flatten().tolist() == [0, 1, 128, 255]

    @pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
    def test_exif_orientation_is_applied(self, orientation: int, turns: int, tmp_path: Path) -> None:
        values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
        np.testing.assert_array_equal(load_image(tmp_path / "turned.png")[0], np.rot90(values, turns))

    def test_one_pixel_fills_the_input(self) -> None:
        output = ImageTransform(32)(Image.new("RGB", (1, 1), (255, 0, 51)))
        torch.testing.assert_close(output.amax((1, 2)), torch.tensor([1.0, -1.0, -0.6]))
        torch.testing.assert_close(output.amin((1, 2)), output.amax((1, 2)))

    def test_grey_becomes_colour_and_colour_grey(self) -> None:
        assert ImageTransform(4, channels=3)(Image.new("L", (4, 4), 255)).tolist() == torch.ones(3, 4, 4).tolist()
        grey = ImageTransform(4, channels=1, mean=0.0, std=1.0)(Image.new("RGB", (4, 4), (255, 0, 0)))
        assert grey.shape == (1, 4, 4)
        assert grey.mean().item() == pytest.approx(0.299, abs=0.003)  # the luma of red, ITU-R 601

    @pytest.mark.parametrize(("mode", "colour"), [("I", 70000), ("I", -1), ("F", 2.0), ("F", float("nan"))])
    def test_values_out_of_range_are_an_error(self, mode: str, colour: float) -> None:
        with pytest.raises(ValueError, match=f"{mode!r} must have values from 0 to"):
            plain_image(Image.new(mode, (2, 2), colour))

    def test_the_given_image_is_not_changed(self) -> None:
        image = photo(6, 6)
        before = image.tobytes()
        ImageTransform(3)(image)
        assert image.tobytes() == before


class TestArraysAndTensors:
    @pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 7, 3)])
    def test_arrays_have_channels_last(self, shape: tuple[int, ...]) -> None:
        values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        expected = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        np.testing.assert_array_equal(load_image(values), expected)

    def test_an_array_may_have_transparency(self) -> None:
        values = np.zeros((2, 2, 4), dtype=np.uint8)
        assert load_image(values).tolist() == torch.full((3, 2, 2), 255).tolist()

    def test_floats_and_bytes_give_the_same(self) -> None:
        values = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        transform = ImageTransform(9)
        tensor = torch.from_numpy(values).permute(2, 0, 1)
        expected = transform(values)
        for same in (values.astype(np.float64) / 255, tensor, tensor / 255, Image.fromarray(values)):
            torch.testing.assert_close(transform(same), expected, atol=1e-6, rtol=0)

    def test_bicubic_overshoot_of_floats_is_cut(self) -> None:
        edge = torch.zeros(3, 8, 8)
        edge[..., 4:] = 1.0
        resized = ImageTransform(32).resize_and_crop(edge)
        assert (resized.min().item(), resized.max().item()) == (0.0, 1.0)

    @pytest.mark.parametrize(
        ("image", "match"),
        [
            (np.zeros((2, 2, 5), dtype=np.uint8), r"shape \(2, 2, 5\)"),
            (np.zeros((2, 2), dtype=np.complex64), "complex64"),
            (np.zeros((4,), dtype=np.uint8), "H, W"),
            (np.zeros((0, 4), dtype=np.uint8), "not empty"),
            (np.full((2, 2), 255.0), "0 … 1, got 255 to 255"),
            (torch.zeros(1, 3, 4, 4), "must be \\(C, H, W\\)"),
            (torch.zeros(4, 4, 3), "call permute"),
            (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
            (torch.full((3, 4, 4), -0.5), "not normalised"),
            (torch.full((3, 4, 4), torch.nan), "0 … 1"),
        ],
    )
    def test_arrays_that_are_not_images_are_an_error(self, image: torch.Tensor, match: str) -> None:
        with pytest.raises(ValueError, match=match):
            ImageTransform(4)(image)

    def test_another_type_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="got list"):
            ImageTransform(4)([[0]])  # type: ignore[arg-type]


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg.*check the path"):
            ImageTransform(4)(tmp_path / "nowhere.jpg")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "webp", "tiff"])
    @pytest.mark.parametrize("thumbnail", [False, True])
    def test_truncated(self, suffix: str, thumbnail: bool, tmp_path: Path) -> None:
        path = tmp_path / f"cut.{suffix}"
        photo(200, 300).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}' cannot be read as an image"):
            read_image(path, thumbnail=thumbnail)

    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Image.new("1", (60, 50)).save(tmp_path / "vast.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(
            ValueError, match=r"vast\.png' is too large \(.*3000 pixels.*MAX_IMAGE_PIXELS if you trust it"
        ):
            read_image(tmp_path / "vast.png")

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
    def test_not_an_image(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "notes.jpg").write_bytes(content)
        with pytest.raises(ValueError, match=r"notes\.jpg' cannot be read.*replace or remove it"):
            ImageTransform(4)(str(tmp_path / "notes.jpg"))

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="cannot be read as an image"):
            ImageTransform(4)(tmp_path)

    def test_an_open_file_is_named_in_errors(self) -> None:
        with pytest.raises(ValueError, match=r"'set\.zip/a\.png' cannot be read"):
            read_image(io.BytesIO(b"junk"), "set.zip/a.png")

    def test_a_thumbnail_is_small_and_shows_the_whole_image(self, tmp_path: Path) -> None:
        photo(160, 240).save(tmp_path / "image.jpg")
        assert read_image(tmp_path / "image.jpg").size == (240, 160)
        assert read_image(tmp_path / "image.jpg", thumbnail=True).size == (30, 20)


class TestPlainFields:
    def test_a_checkpoint_or_yaml_restores_it(self) -> None:
        transform = ImageTransform((32, 48), mean=(0.1, 0.2, 0.3), std=0.4, interpolation="bilinear", crop=0.9)
        plain = json.loads(json.dumps(dataclasses.asdict(transform)))
        assert ImageTransform(**plain) == transform
        parser = ArgumentParser()
        parser.add_argument("--transform", type=ImageTransform)
        assert parser.instantiate(parser.parse_object({"transform": plain})).transform == transform
        assert pickle.loads(pickle.dumps(transform)) == transform  # noqa: S301

    def test_it_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            ImageTransform(4).size = 5  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"size": 0}, "size must be"),
            ({"size": (4, -1)}, "size must be"),
            ({"size": (4, 4, 4)}, "size must be"),
            ({"size": 4, "channels": 2}, "channels must be 1 .* got 2"),
            ({"size": 4, "mean": (0.5, 0.5)}, "mean must be one number or 3"),
            ({"size": 4, "channels": 1, "std": (1.0, 1.0, 1.0)}, "std must be one number or 1"),
            ({"size": 4, "std": 0.0}, "std must be positive"),
            ({"size": 4, "interpolation": "cubic"}, "bicubic.*got 'cubic'"),
            ({"size": 4, "crop": 0.0}, "crop"),
            ({"size": 4, "crop": 1.5}, "crop.*1.5"),
        ],
    )
    def test_arguments_out_of_range_are_named(self, arguments: dict[str, int], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            ImageTransform(**arguments)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.floats(0.2, 1.0),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_becomes_the_input(
    height: int, width: int, size: tuple[int, int], crop: float, channels: int
) -> None:
    transform = ImageTransform(size, channels, crop=crop)
    output = transform(photo(height, width))
    assert output.shape == (channels, *size)
    assert output.dtype == torch.float32
    assert output.abs().max() <= 1.0


def test_a_batch_is_resized_as_its_images_are() -> None:
    images = torch.stack([load_image(photo(40, 50)), load_image(photo(40, 50)).flip(2)])
    transform = ImageTransform((16, 12), crop=0.8)
    torch.testing.assert_close(
        transform.resize_and_crop(images), torch.stack([transform.resize_and_crop(image) for image in images])
    )
