"""TerraTorch's factory and configs, and its names of weights, in terms of composer's graphs.

The names below are loaded when they are first asked for, so that a config is translated without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.terratorch.branches import AuxiliaryHead as AuxiliaryHead
    from composer.terratorch.configs import read_config as read_config
    from composer.terratorch.configs import reads_config as reads_config
    from composer.terratorch.factory import EncoderDecoderFactory as EncoderDecoderFactory
    from composer.terratorch.factory import FactoryModel as FactoryModel
    from composer.terratorch.factory import TerraTorchWarning as TerraTorchWarning
    from composer.terratorch.translation import Translation as Translation
    from composer.terratorch.translation import translate as translate


_NAMES_BY_MODULE = {
    "configs": "read_config reads_config",
    "branches": "AuxiliaryHead",
    "factory": "EncoderDecoderFactory FactoryModel TerraTorchWarning",
    "translation": "Translation translate",
}

_MODULE_BY_NAME = {name: home for home, names in _NAMES_BY_MODULE.items() for name in names.split()}

__all__ = sorted(_MODULE_BY_NAME)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
