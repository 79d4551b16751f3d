"""What a model may come to before it is refused. No torch here."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen


def _check_limit(_: object, attribute: Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{attribute.name} must be a whole number of at least 0 (got {value!r})")


@frozen(kw_only=True)
class Limits:
    """The `parameters` that a model may have, and the `bytes` of them and of its buffers; None is no limit.

    What several nodes share counts once. Raises ValueError for what is no number.
    """

    parameters: int | None = field(default=None, validator=_check_limit)
    bytes: int | None = field(default=None, validator=_check_limit)
