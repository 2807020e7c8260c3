import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from datamodules import (
    BytePair,
    CaptionBatch,
    CaptionDataset,
    Character,
    ImageReader,
    ImageTransform,
    RandomFlip,
    TensorImages,
    Word,
)
from datamodules.files.file_tree import FileTree
from datamodules.images.image_files import FileImages

NAMES = ["ant.jpg", "bee.jpg", "cow.jpg"]
CAPTIONS = [["an ant", "one small ant on a leaf"], ["a bee"], ["two cows", "cows on grass", "a field"]]
TEXTS = [text for several in CAPTIONS for text in several]
OWNERS = [0, 0, 1, 2, 2, 2]
WORDS = Word().train(TEXTS)


def images(count: int = 3, side: int = 8) -> TensorImages:
    values = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return TensorImages(values.to(torch.uint8), torch.arange(count))


def dataset(reader: ImageReader | None = None, **arguments: Any) -> CaptionDataset:  # noqa: ANN401
    settings = {"tokenizer": WORDS, "transform": ImageTransform(8), **arguments}
    return CaptionDataset(reader or images(), NAMES, CAPTIONS, **settings)


class Counted(ImageReader):
    """Records which images are read."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def read(self, indices: Tensor) -> Iterator[Tensor]:
        self.seen += indices.tolist()
        yield from images().read(indices)


class TestItems:
    def test_training_has_one_for_each_caption(self) -> None:
        data = dataset(each_caption=True)
        assert len(data) == 6
        batch = data[[5, 0, 2]]
        assert isinstance(batch, CaptionBatch)
        assert WORDS.decode(batch.captions.tolist()) == ["a field", "an ant", "a bee"]
        assert batch.names == ["cow.jpg", "ant.jpg", "bee.jpg"]
        assert batch.indices == [5, 0, 2]
        assert batch.references == [CAPTIONS[2], CAPTIONS[0], CAPTIONS[1]]
        assert batch.images is not None
        assert torch.equal(batch.images, ImageTransform(8).normalize(images().images[[2, 0, 1]]))

    def test_evaluation_has_one_for_each_image_with_its_first_caption(self) -> None:
        data = dataset()
        assert len(data) == 3
        batch = data[[2, 1, 0]]
        assert WORDS.decode(batch.captions.tolist()) == ["two cows", "a bee", "an ant"]
        assert batch.names == NAMES[::-1]
        assert batch.references == CAPTIONS[::-1]
        assert len(data.caption_rows) == 6, "all captions are counted in the summary"

    def test_captions_begin_and_end(self) -> None:
        batch = dataset(each_caption=True)[[1, 2]]
        for row, text in enumerate((TEXTS[1], TEXTS[2])):
            [numbers] = WORDS.encode([text])
            expected = [WORDS.bos_id, *numbers, WORDS.eos_id]
            assert batch.caption_lengths[row] == len(expected)
            assert batch.captions[row].tolist() == expected + [WORDS.pad_id] * (8 - len(expected))
        assert batch.captions.dtype == batch.caption_lengths.dtype == torch.int64
        assert batch.images is not None
        assert batch.images.dtype == torch.float32
        assert batch.features is None

    @pytest.mark.parametrize(("each_caption", "texts"), [(True, TEXTS), (False, [several[0] for several in CAPTIONS])])
    def test_lengths_for_the_sampler(self, each_caption: bool, texts: list[str]) -> None:
        assert dataset(each_caption=each_caption).lengths.tolist() == [[0, len(text.split()) + 2] for text in texts]

    def test_a_single_index_gives_a_batch_of_one(self) -> None:
        one, same = dataset()[1], dataset()[[1]]
        assert one.names == same.names == ["bee.jpg"]
        assert one.indices == same.indices == [1]
        torch.testing.assert_close(one.images, same.images)

    @given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
    def test_any_number_of_captions(self, counts: list[int], data: st.DataObject) -> None:
        captions = [
            [f"{'a' * (image + 1)} {'b' * (number + 1)}" for number in range(n)] for image, n in enumerate(counts)
        ]
        made = Character().train(["ab "])
        names = [str(number) for number in range(len(counts))]
        training = CaptionDataset(images(len(counts)), names, captions, made, ImageTransform(8), each_caption=True)
        assert len(training) == sum(counts)
        chosen = data.draw(st.lists(st.integers(0, sum(counts) - 1), min_size=1))
        batch = training[chosen]
        flat = [(name, text) for name, several in zip(names, captions, strict=True) for text in several]
        assert list(zip(batch.names, made.decode(batch.captions.tolist()), strict=True)) == [flat[i] for i in chosen]
        assert all(batch.references[row] == captions[int(name)] for row, name in enumerate(batch.names))


class TestMaxLength:
    def test_longer_captions_are_references_only(self) -> None:
        data = dataset(each_caption=True, max_length=3)
        assert len(data) == 5
        assert "one small ant on a leaf" not in WORDS.decode(data[list(range(5))].captions.tolist())
        assert data[0].references == [CAPTIONS[0]]
        assert data.caption_rows.lengths.max() == 5

    def test_an_image_may_lose_all_of_its_captions(self) -> None:
        data = CaptionDataset(
            images(),
            NAMES,
            [["a bee"], ["one two three"], ["a cow"]],
            WORDS,
            ImageTransform(8),
            each_caption=True,
            max_length=2,
        )
        assert data[[0, 1]].names == ["ant.jpg", "cow.jpg"]
        assert len(list(data.image_batches(1))) == 3

    def test_evaluation_keeps_everything(self) -> None:
        assert len(dataset(max_length=1)) == 3

    def test_none_left(self) -> None:
        with pytest.raises(ValueError, match="max_length=1 excludes all 6 captions"):
            dataset(each_caption=True, max_length=1)


class TestImages:
    def test_training_images_alone_are_augmented(self) -> None:
        flipped = dataset(augmentation=[RandomFlip(1.0)])
        batch = flipped[[0, 2]]
        plain = ImageTransform(8).normalize(images().images)
        assert batch.images is not None
        assert torch.equal(batch.images, plain[[0, 2]].flip(3))
        assert torch.equal(torch.cat(list(flipped.image_batches(2))), plain)
        assert torch.equal(flipped.images(torch.tensor([2, 0])), plain[[2, 0]])

    @pytest.mark.parametrize("each_caption", [True, False])
    @pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 1, 1]), (2, [2, 1]), (64, [3])])
    def test_image_batches_contain_each_image_once_in_order(
        self, each_caption: bool, batch_size: int, sizes: list[int]
    ) -> None:
        batches = list(dataset(each_caption=each_caption).image_batches(batch_size))
        assert [len(batch) for batch in batches] == sizes
        assert torch.equal(torch.cat(batches), ImageTransform(8).normalize(images().images))

    @pytest.mark.parametrize("each_caption", [True, False])
    def test_features_replace_images(self, each_caption: bool) -> None:
        reader = Counted()
        features = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 4, 2, 2)
        data = dataset(reader, each_caption=each_caption).with_features(features)
        batch = data[list(range(len(data)))]
        assert batch.images is None
        assert batch.features is not None
        assert batch.features.shape == (len(data), 4, 2, 2)
        assert batch.features[:, 0, 0, 0].tolist() == (OWNERS if each_caption else [0, 1, 2])
        assert not reader.seen, "no image is read"

    def test_features_may_be_memory_mapped(self, tmp_path: Path) -> None:
        stored = torch.from_file(str(tmp_path / "features"), shared=True, size=3 * 4, dtype=torch.float32)
        stored.copy_(torch.arange(12.0))
        features = dataset().with_features(stored.view(3, 4, 1, 1))[[2, 0]].features
        assert features is not None
        assert features.flatten().tolist() == [8, 9, 10, 11, 0, 1, 2, 3]

    def test_everything_but_the_features_is_shared(self) -> None:
        plain = dataset()
        data = plain.with_features(torch.zeros(3, 4, 2, 2))
        assert plain.features is None
        assert data.reader is plain.reader
        assert data.caption_rows is plain.caption_rows
        assert data.with_features(None)[[1]].images is not None

    def test_either_of_mirrored_features_is_taken_at_random(self) -> None:
        features = torch.arange(3.0).reshape(3, 1, 1, 1)
        data = dataset().with_features(features, -features - 1)
        batches = [data[[2, 0]].features for _ in range(50)]
        rows = {tuple(batch.flatten().tolist()) for batch in batches if batch is not None}
        assert rows == {(2, 0), (-3, 0), (2, -1), (-3, -1)}
        assert features.flatten().tolist() == [0, 1, 2], "the given features are not changed"

    @pytest.mark.parametrize(
        ("features", "mirrored", "message"),
        [
            (torch.zeros(2, 4, 1, 1), None, r"features must be \(3, D, rows, columns\).* got .*\(2, 4, 1, 1\)"),
            (torch.zeros(3, 4), None, r"features must be .* got \(3, 4\)"),
            (torch.zeros(3, 4, 1, 1), torch.zeros(3, 4, 1, 2), r"mirrored must have the shape .* got \(3, 4, 1, 2\)"),
            (None, torch.zeros(3, 4, 1, 1), "mirrored must have the shape of features, None"),
        ],
    )
    def test_features_of_another_shape(self, features: Tensor | None, mirrored: Tensor | None, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataset().with_features(features, mirrored)


class TestContentKey:
    def test_the_same_images_and_transform_have_the_same(self) -> None:
        assert dataset().content_key() == dataset(tokenizer=Character().train(TEXTS), each_caption=True).content_key()

    def test_another_pixel_order_or_transform_has_another(self) -> None:
        changed, turned = images(), images()
        changed.images[1, 0, 3, 3] ^= 1
        turned.images = turned.images.flip(0)
        others = [dataset(changed), dataset(turned), dataset(transform=ImageTransform(8, mean=0.4))]
        assert len({data.content_key() for data in (dataset(), *others)}) == 4

    def test_images_of_another_shape_but_the_same_bytes_have_another(self) -> None:
        wide, tall = (torch.zeros(3, 1, *shape, dtype=torch.uint8) for shape in ((2, 8), (8, 2)))
        keys = {dataset(TensorImages(values, torch.arange(3))).content_key() for values in (wide, tall)}
        assert len(keys) == 2

    def test_it_does_not_depend_on_the_size_of_reads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = dataset().content_key()
        monkeypatch.setattr("datamodules.captions.caption_batch._PIECE", 2)
        assert dataset().content_key() == whole

    def test_files_are_distinguished_by_their_bytes(self, tmp_path: Path) -> None:
        for name, shade in zip(NAMES, (10, 20, 30), strict=True):
            Image.new("L", (9, 9), shade).save(tmp_path / name)

        def key() -> str:
            return dataset(FileImages(FileTree(tmp_path), NAMES, torch.arange(3))).content_key()

        first = key()
        assert key() == first
        Image.new("L", (9, 9), 21).save(tmp_path / NAMES[1])
        assert key() != first


class TestDropout:
    def test_changes_the_tokens_in_training_and_not_the_text(self) -> None:
        made = BytePair(60, dropout=0.5).train(TEXTS * 5)
        training = dataset(tokenizer=made, each_caption=True, max_length=50)
        batches = [training[[3, 1]] for _ in range(10)]
        assert len({tuple(batch.captions[1].tolist()) for batch in batches}) > 1
        for batch in batches:
            assert made.decode(batch.captions.tolist()) == [TEXTS[3], TEXTS[1]]
            assert (batch.captions != made.pad_id).sum(1).tolist() == batch.caption_lengths.tolist()
        steady = dataset(tokenizer=made)
        assert len({tuple(steady[0].captions[0].tolist()) for _ in range(10)}) == 1

    def test_long_captions_are_excluded(self) -> None:
        made = BytePair(60, dropout=0.5).train(TEXTS * 5)
        training = dataset(tokenizer=made, each_caption=True, max_length=10)
        kept = made.decode(training[list(range(len(training)))].captions.tolist())
        assert kept == [text for text, numbers in zip(TEXTS, made.encode(TEXTS), strict=True) if len(numbers) <= 10]


def test_picklable_for_worker_processes() -> None:
    again = pickle.loads(pickle.dumps(dataset(each_caption=True)))  # noqa: S301
    assert again[[3]].references == [CAPTIONS[2]]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (CAPTIONS[:2], "captions must be as many as the 3 names, got 2"),
        ([["a"], [], ["b"]], r"captions: 1 images have none, the first is 'bee\.jpg'"),
    ],
)
def test_arguments_are_checked(captions: Sequence[Sequence[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionDataset(images(), NAMES, captions, WORDS, ImageTransform(8))
