"""Systems built from attention blocks: each a plain network and its LightningModule, with the command line."""

from lightning_modules.averaging import average_checkpoints
from lightning_modules.beam_search import BeamSearch, LengthPenalty
from lightning_modules.callbacks import AttentionMapLogger, FreezeBackbone, LossCurve, TranslationLogger
from lightning_modules.caption_metrics import CaptionBLEU, RougeL, caption_words
from lightning_modules.caption_network import CaptionNetwork
from lightning_modules.caption_objectives import CaptionObjective, Likelihood, SelfCritical
from lightning_modules.captioner import Captioner
from lightning_modules.cider import CIDErD, DocumentFrequencies, cider_d
from lightning_modules.classification import Classification, Classifier
from lightning_modules.conv_classifier import ConvClassifier
from lightning_modules.conv_stem import ConvStem, ConvStemTransformer, DeepConvStem, DeepConvStemTransformer
from lightning_modules.decoding_strategy import DecodingStrategy
from lightning_modules.diversity import DistinctNGrams, VocabularyUse
from lightning_modules.ensemble import Ensemble
from lightning_modules.feature_cache import CacheFeatures
from lightning_modules.gated_decoder import GatedDecoder
from lightning_modules.generation import Decoder, DecodingState, Hypothesis, StepOutput, generate
from lightning_modules.image_features import ResNetFeatures, TimmFeatures, ViTFeatures
from lightning_modules.meteor import METEOR
from lightning_modules.resnet import ResidualBlock, SmallResNet
from lightning_modules.rnn_captioner import RNNCaptioner, RNNCaptionNetwork
from lightning_modules.rnn_seq2seq import RNNEncoder, RNNSeq2Seq, RNNTranslator
from lightning_modules.rnn_text_decoder import BahdanauDecoder, FixedVectorDecoder, LuongDecoder, RNNSizes
from lightning_modules.rollout import attention_rollout
from lightning_modules.sampling import Sampling
from lightning_modules.schedules import LengthAwareSchedule, Noam, WarmupCosine
from lightning_modules.seq2seq import Seq2Seq, Seq2SeqNetwork
from lightning_modules.start_from import StartFrom
from lightning_modules.system import System
from lightning_modules.text_decoder import Encoded, TextDecoder
from lightning_modules.text_generator import TextGenerator
from lightning_modules.text_metrics import CorpusBLEU, CorpusCHRF
from lightning_modules.timm_network import TimmNetwork
from lightning_modules.transformer_captioner import TransformerCaptioner, TransformerCaptionNetwork
from lightning_modules.transformer_seq2seq import TransformerSeq2Seq, TransformerTranslator
from lightning_modules.transformer_text_decoder import TransformerTextDecoder
from lightning_modules.vit import AttentionMaps, VisionTransformer, ViTClassifier

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
