"""The field `pretrained`: whether a part loads weights, and from which file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import Attribute, field, frozen


def _validate_text(_: object, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{attribute.name} must be a string that is not empty (got {value!r})")


def _strip_dots(value: Any) -> Any:
    return value.rstrip(".") if isinstance(value, str) else value


@frozen
class WeightsFile:
    """A weights file, and the prefix in front of the names that belong to the network: `teacher.backbone`.

    A prefix is only needed where a file holds several networks. Without it, use the path alone.
    """

    file: str = field(validator=_validate_text)
    prefix: str = field(converter=_strip_dots, validator=_validate_text)


Pretrained = bool | str | WeightsFile
"""False, true for published weights, the path of a file, or a file with a prefix."""


def convert_pretrained(value: Pretrained | Mapping[str, Any]) -> Pretrained:
    """Convert a mapping of `file` and `prefix` into a `WeightsFile`. Raises ValueError for other keys."""
    if not isinstance(value, Mapping):
        return value
    if value.keys() != {"file", "prefix"}:
        raise ValueError(f"a weights file is given by file and prefix (got {', '.join(map(str, value)) or 'nothing'})")
    return WeightsFile(**value)


@frozen
class IsPretrained:
    """Validate `pretrained`: true, false, a path, or a `WeightsFile`. `also` names what else a string may be."""

    also: str = ""

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        """Raise ValueError for anything else."""
        if not isinstance(value, bool | str | WeightsFile) or value == "":
            raise ValueError(
                f"{attribute.name} must be true, false, {self.also}the path of a weights file, "
                f"or a mapping of file and prefix (got {value!r})"
            )


IS_PRETRAINED = IsPretrained()


def get_weights_file(value: Pretrained) -> tuple[str, str | None] | None:
    """Return the path and the prefix of a weights file, or None where published weights or none are asked for."""
    if isinstance(value, WeightsFile):
        return value.file, value.prefix
    return (value, None) if isinstance(value, str) else None
