"""Vision models declared as data, checked before they exist, built into plain torch modules.

The names below are loaded when they are first asked for, so that importing composer imports neither torch nor timm.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.building import build as build
    from composer.checkpoints import Report as Report
    from composer.checkpoints import load_weights as load_weights
    from composer.contracts import Outputs as Outputs
    from composer.contracts import Rejection as Rejection
    from composer.contracts import contract as contract
    from composer.facts import describe as describe
    from composer.feature import Feature as Feature
    from composer.feature import Image as Image
    from composer.graph import Graph as Graph
    from composer.graph import Node as Node
    from composer.graph import Shared as Shared
    from composer.graph import chain as chain
    from composer.inference import infer as infer
    from composer.limits import Limits as Limits
    from composer.loaded import LoadedWeights as LoadedWeights
    from composer.mending import autofix as autofix
    from composer.model import Model as Model
    from composer.model import ModelOutput as ModelOutput
    from composer.modules import module as module
    from composer.parts import PARTS as PARTS
    from composer.parts import AddBottleneckLayer as AddBottleneckLayer
    from composer.parts import AddFeatures as AddFeatures
    from composer.parts import AggregateTokens as AggregateTokens
    from composer.parts import ASPPRegressionHead as ASPPRegressionHead
    from composer.parts import ASPPSegmentationHead as ASPPSegmentationHead
    from composer.parts import ClassificationHead as ClassificationHead
    from composer.parts import ConcatFeatures as ConcatFeatures
    from composer.parts import Custom as Custom
    from composer.parts import Decoder as Decoder
    from composer.parts import EmbeddingHead as EmbeddingHead
    from composer.parts import Encoder as Encoder
    from composer.parts import EncoderInfo as EncoderInfo
    from composer.parts import FCNDecoder as FCNDecoder
    from composer.parts import FeaturePyramidNetworkNeck as FeaturePyramidNetworkNeck
    from composer.parts import Head as Head
    from composer.parts import IdentityDecoder as IdentityDecoder
    from composer.parts import InterpolateToPyramidal as InterpolateToPyramidal
    from composer.parts import LearnedInterpolateToPyramidal as LearnedInterpolateToPyramidal
    from composer.parts import LinearDecoder as LinearDecoder
    from composer.parts import MaxpoolToPyramidal as MaxpoolToPyramidal
    from composer.parts import MLPDecoder as MLPDecoder
    from composer.parts import Mmseg as Mmseg
    from composer.parts import Neck as Neck
    from composer.parts import Part as Part
    from composer.parts import PermuteDims as PermuteDims
    from composer.parts import ProbedEncoder as ProbedEncoder
    from composer.parts import RegressionHead as RegressionHead
    from composer.parts import ReshapeTokensToImage as ReshapeTokensToImage
    from composer.parts import ScalarHead as ScalarHead
    from composer.parts import SegmentationHead as SegmentationHead
    from composer.parts import SelectIndices as SelectIndices
    from composer.parts import Smp as Smp
    from composer.parts import SmpEncoder as SmpEncoder
    from composer.parts import TemporalPooling as TemporalPooling
    from composer.parts import TerraTorch as TerraTorch
    from composer.parts import Timm as Timm
    from composer.parts import Transformers as Transformers
    from composer.parts import UNetDecoder as UNetDecoder
    from composer.parts import UperNetDecoder as UperNetDecoder
    from composer.parts import WeightsFile as WeightsFile
    from composer.problem import Place as Place
    from composer.problem import Problem as Problem
    from composer.problem import SpecError as SpecError
    from composer.sizes import Padding as Padding
    from composer.sizes import SizeConstraint as SizeConstraint
    from composer.text import digest as digest
    from composer.text import read as read
    from composer.text import reads as reads
    from composer.text import write as write
    from composer.typed import TypedGraph as TypedGraph
    from composer.weights import load as load
    from composer.weights import save as save

__version__ = "0.1.0"

_NAMES_BY_MODULE = {
    "building": "build",
    "checkpoints": "Report load_weights",
    "contracts": "Outputs Rejection contract",
    "facts": "describe",
    "feature": "Feature Image",
    "graph": "Graph Node Shared chain",
    "inference": "infer",
    "limits": "Limits",
    "loaded": "LoadedWeights",
    "mending": "autofix",
    "model": "Model ModelOutput",
    "modules": "module",
    "parts": "PARTS AddBottleneckLayer AddFeatures AggregateTokens ASPPRegressionHead ASPPSegmentationHead "
    "ClassificationHead ConcatFeatures Custom Decoder EmbeddingHead Encoder EncoderInfo FCNDecoder "
    "FeaturePyramidNetworkNeck Head IdentityDecoder InterpolateToPyramidal LearnedInterpolateToPyramidal "
    "LinearDecoder MaxpoolToPyramidal MLPDecoder Mmseg Neck Part PermuteDims ProbedEncoder RegressionHead "
    "ReshapeTokensToImage ScalarHead SegmentationHead SelectIndices Smp SmpEncoder TemporalPooling Timm "
    "TerraTorch Transformers UNetDecoder UperNetDecoder WeightsFile",
    "problem": "Place Problem SpecError",
    "sizes": "Padding SizeConstraint",
    "text": "digest read reads write",
    "typed": "TypedGraph",
    "weights": "load save",
}
_MODULE_BY_NAME = {name: home for home, names in _NAMES_BY_MODULE.items() for name in names.split()}

__all__ = sorted(_MODULE_BY_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'composer' has no attribute {name!r}")
    return getattr(import_module(f"composer.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULE_BY_NAME)
