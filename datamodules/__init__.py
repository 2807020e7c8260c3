"""Data: images for classification, captioned images, sentence pairs, tokenizers and transforms."""

from datamodules.captions.caption_batch import CaptionBatch, CaptionDataset
from datamodules.captions.caption_data import CaptionDataModule, CaptionedImages
from datamodules.captions.caption_folder import CaptionFolderDataModule
from datamodules.captions.caption_sources import (
    CaptionRecord,
    CaptionSource,
    CaptionTable,
    CocoCaptions,
    FlickrTokens,
    KarpathySplit,
)
from datamodules.captions.digit_grids import DigitGridDataModule
from datamodules.data_module import BadInput, DataModule
from datamodules.images.augmentation import (
    Augmentation,
    BatchAugmentation,
    RandomErase,
    RandomFlip,
    RandomShift,
    RandomWarp,
    augment,
)
from datamodules.images.classification import ClassificationDataModule
from datamodules.images.digits import DigitsDataModule
from datamodules.images.image_dataset import ImageBatch, ImageDataset, ImageReader, ImageSource, TensorImages
from datamodules.images.image_folder import ImageFolderDataModule
from datamodules.images.image_transform import ImageTransform, RawImage, load_image, plain_image, read_image
from datamodules.images.torchvision_sets import TorchvisionDataModule
from datamodules.splits import HeldOut, Split
from datamodules.text.number_bases import NumberBasesDataModule
from datamodules.text.parallel_text import ParallelTextDataModule
from datamodules.text.text_batch import TextBatch, TextDataset, TokenRows
from datamodules.text.text_data import PairFilter, TextDataModule
from datamodules.text.text_pairs import AlignedFiles, DatasetPairs, SplitPairs, TableFile, TextPair, TextPairs
from datamodules.text.token_batches import ResumableLoader, TokenBatchSampler, TokenBudget
from datamodules.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from datamodules.tokenizers.tokenizer import SubwordTokenizer, Tokenizer
from datamodules.tokenizers.tokenizer_trainers import (
    BytePair,
    Character,
    SavedTokenizer,
    TokenizerTrainer,
    Unigram,
    Word,
)
from datamodules.tokenizers.torchtext_tokenizer import TorchtextTokenizer, TorchtextWords

__all__ = [
    "AlignedFiles",
    "Augmentation",
    "BadInput",
    "BatchAugmentation",
    "BytePair",
    "CaptionBatch",
    "CaptionDataModule",
    "CaptionDataset",
    "CaptionFolderDataModule",
    "CaptionRecord",
    "CaptionSource",
    "CaptionTable",
    "CaptionedImages",
    "Character",
    "ClassificationDataModule",
    "CocoCaptions",
    "DataModule",
    "DatasetPairs",
    "DigitGridDataModule",
    "DigitsDataModule",
    "FlickrTokens",
    "HeldOut",
    "ImageBatch",
    "ImageDataset",
    "ImageFolderDataModule",
    "ImageReader",
    "ImageSource",
    "ImageTransform",
    "KarpathySplit",
    "NumberBasesDataModule",
    "PairFilter",
    "ParallelTextDataModule",
    "RandomErase",
    "RandomFlip",
    "RandomShift",
    "RandomWarp",
    "RawImage",
    "ResumableLoader",
    "SavedTokenizer",
    "SentencePieceTokenizer",
    "Split",
    "SplitPairs",
    "SubwordTokenizer",
    "TableFile",
    "TensorImages",
    "TextBatch",
    "TextDataModule",
    "TextDataset",
    "TextPair",
    "TextPairs",
    "TokenBatchSampler",
    "TokenBudget",
    "TokenRows",
    "Tokenizer",
    "TokenizerTrainer",
    "TorchtextTokenizer",
    "TorchtextWords",
    "TorchvisionDataModule",
    "Unigram",
    "Word",
    "augment",
    "load_image",
    "plain_image",
    "read_image",
]
