"""The open function `module`."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from torch import nn

from composer.feature import Features


@singledispatch
def module(part: Any, *inputs: Features, **named: Features) -> nn.Module:
    """The torch module of `part` for these inputs: what `contract` promises, as a thing that runs.

    An input is a tuple of features; a part that joins takes several, by position or by name. The module is called
    in the same way, with a sequence of tensors for each input, and returns a tuple: one tensor for each feature
    promised. It changes neither its inputs nor, in eval mode, itself. Where its `forward` has a keyword parameter
    `image_size`, it is given the height and width of the reference image in pixels, as integers or symbols.

    A part of one's own is added with `@composer.module.register(ItsClass)`. Raises TypeError for one that is not.
    """
    name = type(part).__name__
    raise TypeError(f"{name} has no module. Register one: @composer.module.register({name})")
