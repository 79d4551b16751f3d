"""The built-in parts: frozen declarations, each with its contract."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from composer.parts.base import Channels as Channels
from composer.parts.base import Decoder as Decoder
from composer.parts.base import Encoder as Encoder
from composer.parts.base import Head as Head
from composer.parts.base import Neck as Neck
from composer.parts.base import Part as Part
from composer.parts.base import ProbedEncoder as ProbedEncoder
from composer.parts.base import get_part_name as get_part_name
from composer.parts.decoders import ASPPRegressionHead as ASPPRegressionHead
from composer.parts.decoders import ASPPSegmentationHead as ASPPSegmentationHead
from composer.parts.decoders import FCNDecoder as FCNDecoder
from composer.parts.decoders import IdentityDecoder as IdentityDecoder
from composer.parts.decoders import LinearDecoder as LinearDecoder
from composer.parts.decoders import MLPDecoder as MLPDecoder
from composer.parts.decoders import UNetDecoder as UNetDecoder
from composer.parts.decoders import UperNetDecoder as UperNetDecoder
from composer.parts.encoders import Custom as Custom
from composer.parts.encoders import EncoderInfo as EncoderInfo
from composer.parts.encoders import Timm as Timm
from composer.parts.encoders import WeightsFile as WeightsFile
from composer.parts.heads import ClassificationHead as ClassificationHead
from composer.parts.heads import EmbeddingHead as EmbeddingHead
from composer.parts.heads import RegressionHead as RegressionHead
from composer.parts.heads import ScalarHead as ScalarHead
from composer.parts.heads import SegmentationHead as SegmentationHead
from composer.parts.necks import AddFeatures as AddFeatures
from composer.parts.necks import ConcatFeatures as ConcatFeatures
from composer.parts.necks import PermuteDims as PermuteDims
from composer.parts.necks import ReshapeTokensToImage as ReshapeTokensToImage
from composer.parts.necks import SelectIndices as SelectIndices
from composer.parts.pyramids import AddBottleneckLayer as AddBottleneckLayer
from composer.parts.pyramids import FeaturePyramidNetworkNeck as FeaturePyramidNetworkNeck
from composer.parts.pyramids import InterpolateToPyramidal as InterpolateToPyramidal
from composer.parts.pyramids import LearnedInterpolateToPyramidal as LearnedInterpolateToPyramidal
from composer.parts.pyramids import MaxpoolToPyramidal as MaxpoolToPyramidal
from composer.parts.registry import PartRegistry as PartRegistry
from composer.parts.registry import PartTable
from composer.parts.registry import UnusableError as UnusableError
from composer.parts.tokens import AggregateTokens as AggregateTokens
from composer.parts.tokens import TemporalPooling as TemporalPooling

NECKS: tuple[type[Neck], ...] = (
    SelectIndices,
    PermuteDims,
    InterpolateToPyramidal,
    MaxpoolToPyramidal,
    ReshapeTokensToImage,
    AddBottleneckLayer,
    LearnedInterpolateToPyramidal,
    FeaturePyramidNetworkNeck,
    AggregateTokens,
    ConcatFeatures,
    AddFeatures,
    TemporalPooling,
)


DECODERS: tuple[type[Decoder], ...] = (
    IdentityDecoder,
    FCNDecoder,
    UNetDecoder,
    UperNetDecoder,
    LinearDecoder,
    MLPDecoder,
    ASPPSegmentationHead,
    ASPPRegressionHead,
)


HEADS: tuple[type[Head], ...] = (SegmentationHead, RegressionHead, ClassificationHead, ScalarHead, EmbeddingHead)


SOURCES: Mapping[str, str] = MappingProxyType(
    {source: f"composer.adapters.{source}" for source in ("smp", "mmseg", "transformers", "terratorch")}
)
"""The package with the parts of each foreign library, as its `PARTS`. It is imported when a part is looked up."""

PARTS: Mapping[str, type[Part]] = PartTable((*NECKS, *DECODERS, *HEADS, Timm), SOURCES)
"""The parts that a text may name. A name that ends in `/` is any of a source: `timm/resnet50` is `Timm("resnet50")`."""

PART_REGISTRY = PartRegistry(PARTS)
"""The built-in parts, and those of installed packages."""

KINDS: Mapping[str, type[Part]] = MappingProxyType({"encoder": Encoder, "neck": Neck, "decoder": Decoder, "head": Head})
"""The base class of each kind of part, in the order in which they follow each other."""
