"""Importing mmseg's heads where mmcv has no compiled operations, as mmcv-lite has none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

COMPILED_OPS = "mmcv._ext"


class UncompiledOps(ModuleType):
    """In the place of mmcv's compiled operations: each of them is there, and raises RuntimeError when it is called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_uncompiled(*_: Any, **__: Any) -> NoReturn:
            raise RuntimeError(f"{name} is an operation that mmcv compiles, and this mmcv is not compiled")

        return raise_uncompiled


def import_decode_heads() -> ModuleType:
    """mmseg's heads. Raises whatever importing them raises."""
    # First, so that an mmseg that is not there is told from an mmcv that is not.
    import_module("mmseg")
    # Asked before anything is imported that needs them: what fails halfway stays registered with mmcv.
    if COMPILED_OPS not in sys.modules and find_spec(COMPILED_OPS) is None:
        sys.modules[COMPILED_OPS] = UncompiledOps(COMPILED_OPS)
        try:
            # What is written in plain torch there, as CCHead's attention is, works.
            import_module("mmcv.ops")
        finally:
            del sys.modules[COMPILED_OPS]
    return import_module("mmseg.models.decode_heads")
