"""Systems built from attention blocks: each a plain network and its LightningModule, with the command line."""

from lightning_modules.callbacks import AttentionMapLogger, LossCurve
from lightning_modules.classification import Classification, Classifier
from lightning_modules.conv_stem import ConvStem, ConvStemTransformer
from lightning_modules.rollout import attention_rollout
from lightning_modules.schedules import LengthAwareSchedule, WarmupCosine
from lightning_modules.system import System
from lightning_modules.vit import AttentionMaps, VisionTransformer, ViTClassifier

__all__ = [
    "AttentionMapLogger",
    "AttentionMaps",
    "Classification",
    "Classifier",
    "ConvStem",
    "ConvStemTransformer",
    "LengthAwareSchedule",
    "LossCurve",
    "System",
    "ViTClassifier",
    "VisionTransformer",
    "WarmupCosine",
    "attention_rollout",
]
