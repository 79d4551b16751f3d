"""The built-in parts: frozen declarations, each with its contract."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from composer.parts import base, decoders, encoders, heads, necks, tokens
from composer.parts.base import Channels as Channels
from composer.parts.base import get_part_name as get_part_name
from composer.parts.registry import PartRegistry as PartRegistry
from composer.parts.registry import PartTable
from composer.parts.registry import UnusableError as UnusableError

if TYPE_CHECKING:
    from composer.parts.base import *  # noqa: F403
    from composer.parts.decoders import *  # noqa: F403
    from composer.parts.encoders import *  # noqa: F403
    from composer.parts.heads import *  # noqa: F403
    from composer.parts.necks import *  # noqa: F403
    from composer.parts.tokens import *  # noqa: F403

NECKS: tuple[type[base.Neck], ...] = (
    necks.SelectIndices,
    necks.PermuteDims,
    necks.InterpolateToPyramidal,
    necks.MaxpoolToPyramidal,
    necks.ReshapeTokensToImage,
    necks.AddBottleneckLayer,
    necks.LearnedInterpolateToPyramidal,
    necks.FeaturePyramidNetworkNeck,
    tokens.AggregateTokens,
    necks.ConcatFeatures,
    necks.AddFeatures,
    tokens.TemporalPooling,
)
DECODERS: tuple[type[base.Decoder], ...] = (
    decoders.IdentityDecoder,
    decoders.FCNDecoder,
    decoders.UNetDecoder,
    decoders.UperNetDecoder,
    decoders.LinearDecoder,
    decoders.MLPDecoder,
    decoders.ASPPSegmentationHead,
    decoders.ASPPRegressionHead,
)
HEADS: tuple[type[base.Head], ...] = (
    heads.SegmentationHead,
    heads.RegressionHead,
    heads.ClassificationHead,
    heads.ScalarHead,
    heads.EmbeddingHead,
)
_OTHERS = (
    *(base.Part, base.Encoder, base.ProbedEncoder, base.Neck, necks.RearrangeNeck, base.Decoder, base.Head),
    *(encoders.Timm, encoders.Custom, encoders.EncoderInfo, encoders.WeightsFile),
)

PUBLIC_NAMES: Mapping[str, type] = MappingProxyType(
    {public.__name__: public for public in (*NECKS, *DECODERS, *HEADS, *_OTHERS)}
)
"""The classes that `composer.parts` and `composer` export, by name."""

# Exported from the table above, so that a new part is entered once.
globals().update(PUBLIC_NAMES)

SOURCES: Mapping[str, str] = MappingProxyType(
    {source: f"composer.adapters.{source}" for source in ("smp", "mmseg", "transformers", "terratorch")}
)
"""The package of each foreign library; its `PARTS` are imported when one of them is looked up."""

PARTS: Mapping[str, type[base.Part]] = PartTable((*NECKS, *DECODERS, *HEADS, encoders.Timm), SOURCES)
"""The parts that a spec may name. A name that ends in `/` is a source: `timm/resnet50` is `Timm("resnet50")`."""

PART_REGISTRY = PartRegistry(PARTS)
"""The built-in parts, and those of installed packages."""

KINDS: Mapping[str, type[base.Part]] = MappingProxyType(
    {"encoder": base.Encoder, "neck": base.Neck, "decoder": base.Decoder, "head": base.Head}
)
"""The base class of each kind of part, in the order of a chain."""
