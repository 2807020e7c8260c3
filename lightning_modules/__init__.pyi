from .backbones.conv_stem import ConvStem, DeepConvStem
from .backbones.image_features import ResNetFeatures, TimmFeatures, ViTFeatures
from .backbones.resnet import ResidualBlock, SmallResNet
from .backbones.timm_network import TimmNetwork
from .backbones.vit import LinearPatchEmbedding, PatchEmbedding, VisionTransformer, vit_attention, vit_layer, vit_norm
from .callbacks.attention_maps import AttentionMapLogger
from .callbacks.freeze_backbone import FreezeBackbone
from .callbacks.loss_curve import LossCurve
from .callbacks.prediction_writer import PredictionWriter
from .callbacks.start_from import StartFrom
from .captioning.caption_network import CaptionNetwork
from .captioning.captioner import Captioner, TrainingReferences
from .captioning.feature_cache import CacheFeatures
from .captioning.rnn_caption_network import RNNCaptionNetwork
from .captioning.rnn_captioner import RNNCaptioner
from .captioning.transformer_caption_network import TransformerCaptionNetwork
from .captioning.transformer_captioner import TransformerCaptioner
from .classification.classifier import Classification, Classifier
from .classification.conv_classifier import ConvClassifier
from .classification.vit_classifier import AttentionMaps, ViTClassifier
from .generation.beam_search import BeamSearch, LengthPenalty
from .generation.decoder import Decoder, DecodingState, Hypothesis, StepOutput
from .generation.decoding_strategy import Continuations, DecodingStrategy, Options
from .generation.engine import generate
from .generation.ensemble import Ensemble
from .generation.sampling import Sampling
from .metrics.caption_metrics import CaptionBLEU, CaptionScore, CaptionTexts, RougeL, caption_words
from .metrics.cider import CIDErD, DocumentFrequencies, WeightedNGrams, cider_d
from .metrics.diversity import DistinctNGrams, Diversity, VocabularyUse
from .metrics.meteor import METEOR
from .metrics.text_metrics import CorpusBLEU, CorpusCHRF, CorpusScore
from .metrics.text_records import TextRecords
from .plots.figures import NoAttentionError
from .plots.rollout import attention_rollout
from .system.averaging import average_checkpoints
from .system.schedules import LengthAwareSchedule, Noam, WarmupCosine
from .system.system import System, adamw
from .text.doubly_stochastic import DoublyStochastic
from .text.gated_decoder import GatedDecoder
from .text.recurrent_cells import RecurrentCells
from .text.rnn_text_decoder import (
    BahdanauDecoder,
    FixedVectorDecoder,
    LuongDecoder,
    RNNMemory,
    RNNSizes,
    RNNTextDecoder,
)
from .text.scheduled_sampling import ScheduledSampling
from .text.self_critical import SelfCritical
from .text.text_decoder import Encoded, TextDecoder
from .text.text_generator import Likelihood, Objective, TextGenerator
from .text.transformer_text_decoder import TransformerTextDecoder
from .translation.rnn_seq2seq import RNNSeq2Seq
from .translation.rnn_translator import RNNEncoder, RNNTranslator, bahdanau_decoder
from .translation.seq2seq import Seq2Seq
from .translation.seq2seq_network import Seq2SeqNetwork
from .translation.transformer_seq2seq import TransformerSeq2Seq
from .translation.transformer_translator import TransformerTranslator
from .translation.translation_logger import TranslationLogger

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
    "CaptionScore",
    "CaptionTexts",
    "Captioner",
    "Classification",
    "Classifier",
    "Continuations",
    "ConvClassifier",
    "ConvStem",
    "CorpusBLEU",
    "CorpusCHRF",
    "CorpusScore",
    "Decoder",
    "DecodingState",
    "DecodingStrategy",
    "DeepConvStem",
    "DistinctNGrams",
    "Diversity",
    "DocumentFrequencies",
    "DoublyStochastic",
    "Encoded",
    "Ensemble",
    "FixedVectorDecoder",
    "FreezeBackbone",
    "GatedDecoder",
    "Hypothesis",
    "LengthAwareSchedule",
    "LengthPenalty",
    "Likelihood",
    "LinearPatchEmbedding",
    "LossCurve",
    "LuongDecoder",
    "NoAttentionError",
    "Noam",
    "Objective",
    "Options",
    "PatchEmbedding",
    "PredictionWriter",
    "RNNCaptionNetwork",
    "RNNCaptioner",
    "RNNEncoder",
    "RNNMemory",
    "RNNSeq2Seq",
    "RNNSizes",
    "RNNTextDecoder",
    "RNNTranslator",
    "RecurrentCells",
    "ResNetFeatures",
    "ResidualBlock",
    "RougeL",
    "Sampling",
    "ScheduledSampling",
    "SelfCritical",
    "Seq2Seq",
    "Seq2SeqNetwork",
    "SmallResNet",
    "StartFrom",
    "StepOutput",
    "System",
    "TextDecoder",
    "TextGenerator",
    "TextRecords",
    "TimmFeatures",
    "TimmNetwork",
    "TrainingReferences",
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
    "WeightedNGrams",
    "adamw",
    "attention_rollout",
    "average_checkpoints",
    "bahdanau_decoder",
    "caption_words",
    "cider_d",
    "generate",
    "vit_attention",
    "vit_layer",
    "vit_norm",
]
