"""TerraTorch's factory and configs, and its names of weights, in terms of composer's graphs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from composer.terratorch.branches import AuxiliaryHead
from composer.terratorch.configs import read_config, reads_config
from composer.terratorch.translation import Translation, translate

if TYPE_CHECKING:
    from composer.terratorch.factory import (
        EncoderDecoderFactory,
        FactoryModel,
        PrithviModelFactory,
        SMPModelFactory,
        TerraTorchWarning,
        TimmModelFactory,
    )

__all__ = [
    "AuxiliaryHead",
    "EncoderDecoderFactory",
    "FactoryModel",
    "PrithviModelFactory",
    "SMPModelFactory",
    "TerraTorchWarning",
    "TimmModelFactory",
    "Translation",
    "read_config",
    "reads_config",
    "translate",
]


def __getattr__(name: str) -> Any:
    # Not at the top: a config is translated without importing torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.factory"), name)
