"""What a pickle mentions and nobody looks up: names, what is outside of it, what would be made."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen


@frozen
class GlobalRef:
    """A class or a function that the pickle names: `collections.OrderedDict`. It was not looked up."""

    name: str


@frozen
class PersistentRef:
    """What stands outside the pickle, by the identifier that it has there."""

    identifier: Any


@define(eq=False)
class ReducedCall:
    """What `made_by` would have made of `arguments`, and what was then put in it. It was not called."""

    made_by: Any
    arguments: Any
    entries: dict[str | None, Any] = field(factory=dict)
