"""The declarations: frozen data that says what a part is, and nothing of how it works. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from composer.parts.aspp import ASPPRegressionHead as ASPPRegressionHead
from composer.parts.aspp import ASPPSegmentationHead as ASPPSegmentationHead
from composer.parts.decoders import FCNDecoder as FCNDecoder
from composer.parts.decoders import IdentityDecoder as IdentityDecoder
from composer.parts.decoders import LinearDecoder as LinearDecoder
from composer.parts.decoders import MLPDecoder as MLPDecoder
from composer.parts.decoders import UNetDecoder as UNetDecoder
from composer.parts.decoders import UperNetDecoder as UperNetDecoder
from composer.parts.encoders import Custom as Custom
from composer.parts.encoders import EncoderInfo as EncoderInfo
from composer.parts.encoders import Timm as Timm
from composer.parts.heads import ClassificationHead as ClassificationHead
from composer.parts.heads import EmbeddingHead as EmbeddingHead
from composer.parts.heads import RegressionHead as RegressionHead
from composer.parts.heads import ScalarHead as ScalarHead
from composer.parts.heads import SegmentationHead as SegmentationHead
from composer.parts.kinds import Channels as Channels
from composer.parts.kinds import Decoder as Decoder
from composer.parts.kinds import Encoder as Encoder
from composer.parts.kinds import Head as Head
from composer.parts.kinds import Neck as Neck
from composer.parts.kinds import Part as Part
from composer.parts.kinds import ProbedEncoder as ProbedEncoder
from composer.parts.kinds import get_part_name as get_part_name
from composer.parts.mmseg import Mmseg as Mmseg
from composer.parts.necks import AddBottleneckLayer as AddBottleneckLayer
from composer.parts.necks import AddFeatures as AddFeatures
from composer.parts.necks import ConcatFeatures as ConcatFeatures
from composer.parts.necks import FeaturePyramidNetworkNeck as FeaturePyramidNetworkNeck
from composer.parts.necks import InterpolateToPyramidal as InterpolateToPyramidal
from composer.parts.necks import LearnedInterpolateToPyramidal as LearnedInterpolateToPyramidal
from composer.parts.necks import MaxpoolToPyramidal as MaxpoolToPyramidal
from composer.parts.necks import PermuteDims as PermuteDims
from composer.parts.necks import ReshapeTokensToImage as ReshapeTokensToImage
from composer.parts.necks import SelectIndices as SelectIndices
from composer.parts.registered import PartRegistry as PartRegistry
from composer.parts.registered import UnusableError as UnusableError
from composer.parts.smp import Smp as Smp
from composer.parts.smp_encoders import SmpEncoder as SmpEncoder
from composer.parts.temporal import TemporalPooling as TemporalPooling
from composer.parts.terratorch import TerraTorch as TerraTorch
from composer.parts.tokens import AggregateTokens as AggregateTokens
from composer.parts.transformers import Transformers as Transformers
from composer.parts.weights import WeightsFile as WeightsFile

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

LIBRARY_PARTS: tuple[type[Part], ...] = (Timm, Smp, SmpEncoder, Mmseg, Transformers, TerraTorch)


def list_part_names(part: type[Part]) -> tuple[str, ...]:
    """The names by which a text may name a part: its own, those of its source, or all of its source (`timm/`)."""
    if part.source is None:
        return (part.__name__,)
    return (f"{part.source}/",) if part.names is None else tuple(f"{part.source}/{name}" for name in part.names)


PARTS: Mapping[str, type[Part]] = MappingProxyType(
    {name: part for part in (*NECKS, *DECODERS, *HEADS, *LIBRARY_PARTS) for name in list_part_names(part)}
)
"""The parts that a text may name. A name that ends in `/` is any of a source: `timm/resnet50` is `Timm("resnet50")`."""

PART_REGISTRY = PartRegistry(PARTS)
"""The built-in parts, and those of installed packages."""

KINDS: Mapping[str, type[Part]] = MappingProxyType({"encoder": Encoder, "neck": Neck, "decoder": Decoder, "head": Head})
"""What the field calls the four kinds, in the order in which they follow each other."""
