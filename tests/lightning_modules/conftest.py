"""Fixtures of the systems' tests: tiny systems of each family, a quiet Lightning, the command line in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import matplotlib as mpl
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import attention_blocks
from attention_blocks import (
    AdditiveAttention,
    ALiBi,
    Attention,
    DecoderLayer,
    EncoderLayer,
    LuongAttention,
    MaskedSelfAttention,
    MultiHeadAttention,
    RotaryPosition,
    SelfAttention,
)
from datamodules import (
    CaptionBatch,
    CaptionDataset,
    ImageTransform,
    TensorImages,
    TextBatch,
    TextDataset,
    Tokenizer,
    Word,
)
from lightning_modules import (
    BahdanauDecoder,
    BeamSearch,
    Captioner,
    FixedVectorDecoder,
    LuongDecoder,
    ResNetFeatures,
    RNNCaptioner,
    RNNCaptionNetwork,
    RNNSeq2Seq,
    RNNSizes,
    RNNTranslator,
    Seq2Seq,
    TransformerCaptioner,
    TransformerCaptionNetwork,
    TransformerSeq2Seq,
    TransformerTranslator,
    VisionTransformer,
    ViTClassifier,
    ViTFeatures,
)
from tests.user_blocks import NearbyAttention

if TYPE_CHECKING:
    from lightning_modules.cli.lightning_cli import SystemCLI

Loader = DataLoader[tuple[Tensor, ...]]
TINY = partial(VisionTransformer, patches=4, dim=16, depth=2, attention=partial(SelfAttention, num_heads=2))
# The recipe of the digits, small enough for a run of half a second.
TINY_DIGITS = [
    "--config",
    "vit_digits",
    *("--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "1"),
    *("--trainer.limit_train_batches", "2"),
    *("--trainer.limit_val_batches", "1"),
    *("--trainer.limit_test_batches", "1"),
    *("--trainer.limit_predict_batches", "1"),
    *("--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
    *("--model.init_args.network.init_args.dim", "16"),
    *("--model.init_args.network.init_args.depth", "2"),
    *("--data.init_args.batch_size", "8"),
]


class MakeClassifier(Protocol):
    def __call__(self, network: Callable[..., nn.Module] = ..., **arguments: object) -> ViTClassifier: ...


class MakeTrainer(Protocol):
    def __call__(self, logger: Logger | bool = ..., **arguments: object) -> Trainer: ...


class MakeLoader(Protocol):
    def __call__(self, count: int = ..., batch_size: int = ..., *, shuffle: bool = ...) -> Loader: ...


class Ran(NamedTuple):
    """Result of a command.

    Attributes:
        cli: the finished command line, after one of Lightning's commands.
        code: the exit status; ``None`` where the command just returned.
        out: what it printed.
        err: what it printed as errors.
    """

    cli: SystemCLI | None
    code: int | str | None
    out: str
    err: str


RunCommand = Callable[..., Ran]


class Trained(NamedTuple):
    """Result of a tiny training by the command line.

    Attributes:
        folder: where it was started.
        version: the folder with its pictures, configuration and metrics.
        checkpoint: the file.
        model: the system, as it was when the training ended.
        metrics: the last ones of the trainer.
    """

    folder: Path
    version: Path
    checkpoint: Path
    model: ViTClassifier
    metrics: Mapping[str, Tensor]


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    mpl.use("Agg")
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _same_draws() -> Iterator[None]:
    """Every test draws the same numbers in any order of tests, and leaves the generator unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def make_classifier() -> MakeClassifier:
    """Creates a classifier of three classes of grey images of 8x8 pixels."""

    def make(network: Callable[..., nn.Module] = TINY, **arguments: object) -> ViTClassifier:
        settings: dict[str, object] = {"num_classes": 3, "transform": ImageTransform(8, channels=1), "network": network}
        return ViTClassifier(**{**settings, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_loader() -> MakeLoader:
    """Creates a loader of random grey images of 8x8 pixels and their classes, always the same."""

    def make(count: int = 16, batch_size: int = 8, *, shuffle: bool = False) -> Loader:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size, shuffle=shuffle)

    return make


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    """Creates a trainer on the CPU without logger and checkpoints by default."""

    def make(logger: Logger | bool = False, **arguments: object) -> Trainer:
        settings: dict[str, object] = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        return Trainer(logger=logger, **{**settings, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs the command line inside this process."""

    from lightning_modules.cli.main import main  # not imported for the tests that run no command

    def run(*words: object) -> Ran:
        cli, code = None, None
        capsys.readouterr()
        try:
            cli = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        return Ran(cli, code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _quiet: None) -> Trained:
    """A checkpoint that the command line trained on the digits."""
    from lightning_modules.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["attention-blocks"])
        cli = main(["fit", *TINY_DIGITS])
    assert cli is not None
    assert isinstance(cli.model, ViTClassifier)
    [checkpoint] = folder.glob("runs/vit_digits/version_0/checkpoints/*.ckpt")
    return Trained(folder, checkpoint.parents[1], checkpoint, cli.model, dict(cli.trainer.callback_metrics))


@pytest.fixture
def tiny_digits() -> list[str]:
    """Words of a command that runs the recipe of the digits at a tiny size."""
    return list(TINY_DIGITS)


# Text: tiny vocabularies, translators of both kinds, and every attention.

SOURCE_WORDS = "der ein Hund Vogel Mann sieht isst singt schnell und nicht ."
TARGET_WORDS = "the a dog bird man sees eats sings quickly and not now then ."
HEADS = partial(SelfAttention, num_heads=2)
SMALL_TRANSFORMER = partial(
    TransformerTranslator,
    dim=16,
    depth=2,
    encoder_layer=partial(EncoderLayer, attention=HEADS),
    decoder_layer=partial(
        DecoderLayer,
        self_attention=partial(MaskedSelfAttention, num_heads=2),
        cross_attention=partial(MultiHeadAttention, num_heads=2),
    ),
    dropout=0.0,
    output_bias=True,
)
SMALL_RNN = partial(RNNTranslator, sizes=RNNSizes(8, 16))
TRANSLATORS: dict[str, Callable[..., Seq2Seq]] = {
    "transformer": partial(TransformerSeq2Seq, network=SMALL_TRANSFORMER),
    "unbiased": partial(TransformerSeq2Seq, network=partial(SMALL_TRANSFORMER, output_bias=False)),
    "bahdanau": partial(RNNSeq2Seq, network=partial(SMALL_RNN, decoder=BahdanauDecoder)),
    "luong": partial(RNNSeq2Seq, network=partial(SMALL_RNN, sizes=RNNSizes(8, 16, "lstm"), decoder=LuongDecoder)),
    "fixed": partial(RNNSeq2Seq, network=partial(SMALL_RNN, decoder=FixedVectorDecoder)),
}


def _blocks() -> dict[str, Callable[[int, int], Attention]]:
    public = (getattr(attention_blocks, name) for name in attention_blocks.__all__)
    classes = [thing for thing in public if isinstance(thing, type) and issubclass(thing, Attention)]
    return {
        **{block.__name__: block for block in classes if block is not Attention},
        "LuongAttention-dot": partial(LuongAttention, score="dot"),
        "LuongAttention-concat": partial(LuongAttention, score="concat"),
        "LuongAttention-local-m": partial(LuongAttention, window="local-m", radius=1),
        "LuongAttention-local-p": partial(LuongAttention, window="local-p", radius=2),
        "MultiHeadAttention-grouped": partial(MultiHeadAttention, num_heads=4, num_kv_heads=2),
        "MultiHeadAttention-rotary": partial(MultiHeadAttention, num_heads=2, rotary=RotaryPosition),
        "MultiHeadAttention-alibi": partial(MultiHeadAttention, num_heads=2, score_bias=ALiBi),
        "NearbyAttention": NearbyAttention,
    }


@pytest.fixture(params=[pytest.param(make, id=name) for name, make in _blocks().items()])
def attention(request: pytest.FixtureRequest) -> Callable[[int, int], Attention]:
    """Every public block, some in several ways, and one of a user's, created as ``attention(16, 16)``."""
    make: Callable[[int, int], Attention] = request.param
    return make


class MakeTextBatch(Protocol):
    def __call__(self, sources: Sequence[str] = ..., targets: Sequence[str] = ...) -> TextBatch: ...


class MakeTranslator(Protocol):
    def __call__(self, kind: str = ..., **arguments: object) -> Seq2Seq: ...


class TextTokenizers(NamedTuple):
    """The two vocabularies."""

    source: Tokenizer
    target: Tokenizer


@pytest.fixture(scope="session")
def tokenizers() -> TextTokenizers:
    """A dozen words on each side, in different numbers."""
    return TextTokenizers(Word().train([SOURCE_WORDS]), Word().train([TARGET_WORDS]))


@pytest.fixture(scope="session")
def make_text_batch(tokenizers: TextTokenizers) -> MakeTextBatch:
    """Creates a batch of sentence pairs, of different lengths by default."""

    def make(
        sources: Sequence[str] = ("der Hund sieht ein Vogel .", "ein Mann singt", "der Vogel isst nicht ."),
        targets: Sequence[str] = ("the dog sees a bird .", "a man sings", "the bird eats not ."),
    ) -> TextBatch:
        dataset = TextDataset(list(sources), list(targets), tokenizers.source, tokenizers.target)
        return dataset[range(len(sources))]

    return make


@pytest.fixture
def make_translator(tokenizers: TextTokenizers) -> MakeTranslator:
    """Creates a tiny untrained translator of one of the kinds in TRANSLATORS, without dropout."""

    def make(kind: str = "transformer", **arguments: object) -> Seq2Seq:
        settings: dict[str, object] = {"strategy": BeamSearch(size=2)}
        return TRANSLATORS[kind](tokenizers.source, tokenizers.target, **{**settings, **arguments})

    return make


TextLoader = DataLoader[TextBatch]


class MakeTextLoader(Protocol):
    def __call__(self, *batches: TextBatch) -> TextLoader: ...


@pytest.fixture(scope="session")
def make_text_loader(make_text_batch: MakeTextBatch) -> MakeTextLoader:
    """Creates a loader of the given batches, by default of four small ones."""

    def make(*batches: TextBatch) -> TextLoader:
        dataset = cast(Dataset[TextBatch], list(batches) or [make_text_batch()] * 4)
        return DataLoader(dataset, batch_size=None, collate_fn=cast(Callable[[list[Any]], Any], _as_it_is))

    return make


def _as_it_is(batch: TextBatch) -> TextBatch:
    return batch


@pytest.fixture
def make_writer(make_translator: MakeTranslator) -> MakeTranslator:
    """Creates a translator in evaluation mode with weights large enough that translations differ."""

    def make(kind: str = "transformer", **arguments: object) -> Seq2Seq:
        system = make_translator(kind, **arguments).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in system.parameters():
                parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
            if system.decoder.output.bias is not None:
                system.decoder.output.bias[system.target_tokenizer.eos_id] += 1.0
        return system

    return make


@pytest.fixture
def sentences() -> list[str]:
    """Sources of different lengths, the longest neither first nor last."""
    return [
        "der Hund sieht ein Vogel .",
        "ein Mann singt",
        "der Vogel isst nicht und der Hund isst schnell .",
        "ein Vogel",
        "nicht schnell und nicht und nicht",
        "der Mann sieht der Mann .",
    ]


# Captions: every kind of captioner, tiny, for images of 16 x 24 pixels.

CAPTIONS = ["a dog runs", "two cats sleep in the snow", "snow"]
TINY_RESNET = partial(ResNetFeatures, widths=(8, 12), depth=1)
TINY_PATCHES = partial(ViTFeatures, network=partial(VisionTransformer, patches=8, dim=24, depth=1))
CAPTION_RNN = partial(
    RNNCaptionNetwork, backbone=TINY_RESNET, attention=AdditiveAttention, sizes=RNNSizes(8, 16, "gru")
)
CAPTION_TRANSFORMER = partial(TransformerCaptionNetwork, dim=16, depth=1, dropout=0.0)
CAPTIONERS: dict[str, Callable[..., Captioner]] = {
    "show-and-tell": partial(RNNCaptioner, network=partial(CAPTION_RNN, attention=None, sizes=RNNSizes(8, 16, "lstm"))),
    "show-attend-and-tell": partial(RNNCaptioner, network=CAPTION_RNN),
    "transformer": partial(TransformerCaptioner, network=partial(CAPTION_TRANSFORMER, backbone=TINY_RESNET)),
    "patches": partial(
        TransformerCaptioner, network=partial(CAPTION_TRANSFORMER, backbone=TINY_PATCHES, encoder_depth=0)
    ),
}


class MakeCaptioner(Protocol):
    def __call__(self, kind: str = ..., **arguments: object) -> Captioner: ...


@pytest.fixture(scope="session")
def caption_words() -> Tokenizer:
    """The words of three captions."""
    return Word().train(CAPTIONS)


@pytest.fixture(params=CAPTIONERS)
def every_captioner(request: pytest.FixtureRequest) -> str:
    """Every kind of captioner that ``make_captioner`` creates."""
    kind: str = request.param
    return kind


@pytest.fixture
def make_captioner(caption_words: Tokenizer) -> MakeCaptioner:
    """Creates a tiny untrained captioner of one of the kinds in CAPTIONERS, without dropout."""

    def make(kind: str = "show-attend-and-tell", **arguments: object) -> Captioner:
        settings: dict[str, object] = {"strategy": BeamSearch(size=2)}
        return CAPTIONERS[kind](caption_words, ImageTransform((16, 24)), **{**settings, **arguments})

    return make


@pytest.fixture
def caption_batch(caption_words: Tokenizer) -> CaptionBatch:
    """Three random images with captions of different lengths."""
    reader = TensorImages(torch.randint(256, (3, 3, 16, 24), dtype=torch.uint8), torch.zeros(3))
    dataset = CaptionDataset(
        reader, ["1", "2", "3"], [[text] for text in CAPTIONS], caption_words, ImageTransform((16, 24))
    )
    return dataset[range(3)]
