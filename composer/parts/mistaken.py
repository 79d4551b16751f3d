"""What to say of a value that is not a part, where a part is expected. No torch here."""

from __future__ import annotations

from typing import Any

from composer.parts import PART_REGISTRY, UnusableError
from composer.parts.kinds import Part

_MODULE = "torch.nn.modules.module"


def explain_mistake(value: Any) -> str | None:
    """Return what a name, a class or an nn.Module is that stands in place of a part, and how to make a part of it."""
    if isinstance(value, str):
        return f"{value!r} is a name, not a part; use {_format_constructor(value)}"
    if isinstance(value, type) and issubclass(value, Part):
        return f"{value.__name__} is a class, not a part; use composer.{value.__name__}(…)"
    if any(base.__module__ == _MODULE for base in type(value).__mro__):
        return (
            f"{type(value).__name__} is an nn.Module, not a part; wrap an encoder in composer.Custom(module, "
            "features=[composer.Feature(channels=…, stride=…)]); register any other part with @composer.module.register"
        )
    return None


def _format_constructor(name: str) -> str:
    """Return how Python writes the part of a name; a name without a source is taken for a network of timm."""
    source, slash, rest = name.partition("/")
    try:
        cls = (PART_REGISTRY.get(f"{source}/") if slash else None) or PART_REGISTRY.get(name)
    except UnusableError:
        cls = None
    if cls is None:
        return "a part, such as composer.Timm('resnet18')" if slash else f"composer.Timm({name!r})"
    return f"composer.{cls.__name__}({rest!r})" if slash else f"composer.{cls.__name__}(…)"
