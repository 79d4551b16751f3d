"""Vision models declared as data, checked before they exist, built into plain torch modules.

The names below are loaded when they are first asked for, so that importing composer imports neither torch nor timm.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.adapters.mmseg.parts import Mmseg as Mmseg
    from composer.adapters.smp.parts import Smp as Smp
    from composer.adapters.smp.parts import SmpEncoder as SmpEncoder
    from composer.adapters.terratorch.parts import TerraTorch as TerraTorch
    from composer.adapters.transformers import Transformers as Transformers
    from composer.building import build as build
    from composer.encoder_info import describe as describe
    from composer.errors import Fix as Fix
    from composer.errors import Place as Place
    from composer.errors import Problem as Problem
    from composer.errors import SpecError as SpecError
    from composer.fixes import autofix as autofix
    from composer.graph import Graph as Graph
    from composer.graph import Node as Node
    from composer.graph import Shared as Shared
    from composer.graph import chain as chain
    from composer.inference import TypedGraph as TypedGraph
    from composer.inference import infer as infer
    from composer.layouts import Feature as Feature
    from composer.layouts import Image as Image
    from composer.limits import Limits as Limits
    from composer.model import Model as Model
    from composer.model import ModelOutput as ModelOutput
    from composer.modules.base import module as module
    from composer.parts import *  # noqa: F403
    from composer.parts import PARTS as PARTS
    from composer.parts.base import contract as contract
    from composer.parts.rules import Change as Change
    from composer.parts.rules import Outputs as Outputs
    from composer.parts.rules import Rejection as Rejection
    from composer.sizes import Padding as Padding
    from composer.sizes import SizeConstraint as SizeConstraint
    from composer.spec.reader import read as read
    from composer.spec.reader import reads as reads
    from composer.spec.writer import digest as digest
    from composer.spec.writer import write as write
    from composer.tensors.matching import LoadedWeights as LoadedWeights
    from composer.tensors.matching import Report as Report
    from composer.weights import load as load
    from composer.weights import load_weights as load_weights
    from composer.weights import save as save

__version__ = "0.1.0"

_NAMES_BY_MODULE = {
    "adapters.mmseg.parts": "Mmseg",
    "adapters.smp.parts": "Smp SmpEncoder",
    "adapters.terratorch.parts": "TerraTorch",
    "adapters.transformers": "Transformers",
    "fixes": "autofix",
    "building": "build",
    "encoder_info": "describe",
    "errors": "Fix Place Problem SpecError",
    "graph": "Graph Node Shared chain",
    "inference": "TypedGraph infer",
    "layouts": "Feature Image",
    "limits": "Limits",
    "model": "Model ModelOutput",
    "modules": "module",
    "parts": "PARTS",
    "parts.base": "contract",
    "parts.rules": "Change Outputs Rejection",
    "sizes": "Padding SizeConstraint",
    "spec.reader": "read reads",
    "spec.writer": "digest write",
    "tensors.matching": "LoadedWeights Report",
    "weights": "load load_weights save",
}
_MODULE_BY_NAME = {name: home for home, names in _NAMES_BY_MODULE.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name in _MODULE_BY_NAME:
        return getattr(import_module(f"composer.{_MODULE_BY_NAME[name]}"), name)
    if name in _get_part_names():
        return getattr(import_module("composer.parts"), name)
    raise AttributeError(f"module 'composer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_MODULE_BY_NAME, *_get_part_names()})


def _get_part_names() -> Mapping[str, type]:
    """Return the public classes of `composer.parts`, whose table is loaded when the first of them is used."""
    from composer.parts import PUBLIC_NAMES

    return PUBLIC_NAMES
