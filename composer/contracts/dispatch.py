"""The open function `contract`. No torch here."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from composer.contracts.rules import ContractResult, Rejection
from composer.feature import Features


@singledispatch
def contract(part: Any, *inputs: Features, **named: Features) -> ContractResult | Features:
    """What `part` gives for these inputs: features, a `Promise` where it demands image sizes, or a `Refusal`.

    An input is a tuple of features; a part that joins takes several, by position or by name. Pure. A part of one's
    own is added with `@composer.contract.register(ItsClass)`.
    """
    return Rejection(
        code="part",
        kind="raises",
        expected="has no contract",
        got="a class that is not registered",
        repair=f"register one: @composer.contract.register({type(part).__name__})",
    )
