"""Systems built from attention blocks: each a plain network and its LightningModule, with the command line."""

from lightning_modules.backbones.conv_stem import ConvStem, ConvStemTransformer, DeepConvStem, DeepConvStemTransformer
from lightning_modules.backbones.image_features import ResNetFeatures, TimmFeatures, ViTFeatures
from lightning_modules.backbones.resnet import ResidualBlock, SmallResNet
from lightning_modules.backbones.timm_network import TimmNetwork
from lightning_modules.backbones.vit import VisionTransformer
from lightning_modules.callbacks.attention_maps import AttentionMapLogger
from lightning_modules.callbacks.freeze_backbone import FreezeBackbone
from lightning_modules.callbacks.loss_curve import LossCurve
from lightning_modules.callbacks.start_from import StartFrom
from lightning_modules.captioning.caption_network import CaptionNetwork
from lightning_modules.captioning.captioner import Captioner
from lightning_modules.captioning.feature_cache import CacheFeatures
from lightning_modules.captioning.rnn_caption_network import RNNCaptionNetwork
from lightning_modules.captioning.rnn_captioner import RNNCaptioner
from lightning_modules.captioning.transformer_caption_network import TransformerCaptionNetwork
from lightning_modules.captioning.transformer_captioner import TransformerCaptioner
from lightning_modules.classification.classifier import Classification, Classifier
from lightning_modules.classification.conv_classifier import ConvClassifier
from lightning_modules.classification.vit_classifier import AttentionMaps, ViTClassifier
from lightning_modules.generation.beam_search import BeamSearch, LengthPenalty
from lightning_modules.generation.decoder import Decoder, DecodingState, Hypothesis, StepOutput
from lightning_modules.generation.decoding_strategy import DecodingStrategy
from lightning_modules.generation.engine import generate
from lightning_modules.generation.ensemble import Ensemble
from lightning_modules.generation.sampling import Sampling
from lightning_modules.metrics.caption_metrics import CaptionBLEU, RougeL, caption_words
from lightning_modules.metrics.cider import CIDErD, DocumentFrequencies, cider_d
from lightning_modules.metrics.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.metrics.meteor import METEOR
from lightning_modules.metrics.text_metrics import CorpusBLEU, CorpusCHRF
from lightning_modules.plots.rollout import attention_rollout
from lightning_modules.system.averaging import average_checkpoints
from lightning_modules.system.schedules import LengthAwareSchedule, Noam, WarmupCosine
from lightning_modules.system.system import System
from lightning_modules.text.gated_decoder import GatedDecoder
from lightning_modules.text.rnn_text_decoder import BahdanauDecoder, FixedVectorDecoder, LuongDecoder, RNNSizes
from lightning_modules.text.self_critical import CaptionObjective, Likelihood, SelfCritical
from lightning_modules.text.text_decoder import Encoded, TextDecoder
from lightning_modules.text.text_generator import TextGenerator
from lightning_modules.text.transformer_text_decoder import TransformerTextDecoder
from lightning_modules.translation.rnn_seq2seq import RNNSeq2Seq
from lightning_modules.translation.rnn_translator import RNNEncoder, RNNTranslator
from lightning_modules.translation.seq2seq import Seq2Seq
from lightning_modules.translation.seq2seq_network import Seq2SeqNetwork
from lightning_modules.translation.transformer_seq2seq import TransformerSeq2Seq
from lightning_modules.translation.transformer_translator import TransformerTranslator
from lightning_modules.translation.translation_logger import TranslationLogger

__all__ = [
    "METEOR",
    "AttentionMapLogger",
    "AttentionMaps",
    "BahdanauDecoder",
    "BeamSearch",
    "CIDErD",
    "CacheFeatures",
    "CaptionBLEU",
    "CaptionNetwork",
    "CaptionObjective",
    "Captioner",
    "Classification",
    "Classifier",
    "ConvClassifier",
    "ConvStem",
    "ConvStemTransformer",
    "CorpusBLEU",
    "CorpusCHRF",
    "Decoder",
    "DecodingState",
    "DecodingStrategy",
    "DeepConvStem",
    "DeepConvStemTransformer",
    "DistinctNGrams",
    "DocumentFrequencies",
    "Encoded",
    "Ensemble",
    "FixedVectorDecoder",
    "FreezeBackbone",
    "GatedDecoder",
    "Hypothesis",
    "LengthAwareSchedule",
    "LengthPenalty",
    "Likelihood",
    "LossCurve",
    "LuongDecoder",
    "Noam",
    "RNNCaptionNetwork",
    "RNNCaptioner",
    "RNNEncoder",
    "RNNSeq2Seq",
    "RNNSizes",
    "RNNTranslator",
    "ResNetFeatures",
    "ResidualBlock",
    "RougeL",
    "Sampling",
    "SelfCritical",
    "Seq2Seq",
    "Seq2SeqNetwork",
    "SmallResNet",
    "StartFrom",
    "StepOutput",
    "System",
    "TextDecoder",
    "TextGenerator",
    "TimmFeatures",
    "TimmNetwork",
    "TransformerCaptionNetwork",
    "TransformerCaptioner",
    "TransformerSeq2Seq",
    "TransformerTextDecoder",
    "TransformerTranslator",
    "TranslationLogger",
    "ViTClassifier",
    "ViTFeatures",
    "VisionTransformer",
    "VocabularyUse",
    "WarmupCosine",
    "attention_rollout",
    "average_checkpoints",
    "caption_words",
    "cider_d",
    "generate",
]
