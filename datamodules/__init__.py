"""The data: images for classifiers, captioned images, sentence pairs, and what makes them a network's input."""

from datamodules.augmentation import (
    Augmentation,
    BatchAugmentation,
    RandomErase,
    RandomFlip,
    RandomShift,
    RandomWarp,
    augment,
)
from datamodules.caption_batch import CaptionBatch, CaptionDataset
from datamodules.caption_sources import (
    CaptionRecord,
    CaptionSource,
    CaptionTable,
    CocoCaptions,
    FlickrTokens,
    KarpathySplit,
)
from datamodules.captioned_images import CaptionedImages, CaptionedImagesDataModule
from datamodules.captions import CaptionDataModule, HeldOut
from datamodules.classification import ClassificationDataModule
from datamodules.digit_grids import DigitGridDataModule
from datamodules.digits import DigitsDataModule
from datamodules.image_dataset import ImageBatch, ImageDataset, ImageReader, ImageSource, TensorImages
from datamodules.image_folder import ImageFolderDataModule
from datamodules.image_transform import ImageTransform, RawImage, load_image, plain_image, read_image
from datamodules.number_bases import NumberBasesDataModule
from datamodules.parallel_text import ParallelTextDataModule
from datamodules.text_batch import TextBatch, TextDataset
from datamodules.text_data import PairFilter, TextDataModule
from datamodules.text_pairs import AlignedFiles, DatasetPairs, TableFile, TextPair, TextPairs
from datamodules.token_batches import ResumableLoader, TokenBatchSampler, TokenBudget
from datamodules.tokenizer import SubwordTokenizer, Tokenizer
from datamodules.tokenizer_trainers import BytePair, Character, SavedTokenizer, TokenizerTrainer, Unigram, Word
from datamodules.torchtext_tokenizer import TorchtextTokenizer, TorchtextWords
from datamodules.torchvision_sets import TorchvisionDataModule

__all__ = [
    "AlignedFiles",
    "Augmentation",
    "BatchAugmentation",
    "BytePair",
    "CaptionBatch",
    "CaptionDataModule",
    "CaptionDataset",
    "CaptionRecord",
    "CaptionSource",
    "CaptionTable",
    "CaptionedImages",
    "CaptionedImagesDataModule",
    "Character",
    "ClassificationDataModule",
    "CocoCaptions",
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
