"""Backbones of transformers: the declaration. Their torch code is in `modules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from attrs import evolve, field, frozen

from composer.bands import RGB
from composer.parts.base import ProbedEncoder
from composer.parts.encoders import IS_PRETRAINED, Pretrained, convert_pretrained
from composer.parts.validators import (
    BOUNDED_OPTIONS,
    NON_EMPTY,
    OPTIONAL_INDEX,
    ForbiddenKeys,
    Options,
    convert_optional_int_list,
    convert_options,
)

_OUT_INDICES_REASON = "out_indices is a field of its own"

FORBIDDEN_TRANSFORMERS_OPTIONS = {
    "out_indices": _OUT_INDICES_REASON,
    "out_features": _OUT_INDICES_REASON,
    "num_channels": "it is the channels of the input",
    "model_type": "it is named by name",
    "name_or_path": "it is named by name",
    "auto_map": "no code of a checkpoint is run",
    "trust_remote_code": "no code of a checkpoint is run",
    "return_dict": "composer reads what the network gives",
    "dtype": "the built model is moved with to()",
}
"""Fields of a config that `options` may not hold, each with the reason why."""


def _validate_checkpoint_name(_: object, __: object, value: Any) -> None:
    if not isinstance(value, str) or not value:
        expected = "an architecture such as 'swin', a checkpoint OWNER/NAME, or a folder that begins with ./ or /"
        raise ValueError(f"name must be {expected} (got {value!r})")


@frozen
class Transformers(ProbedEncoder):
    """A backbone of transformers: `transformers/NAME`, of those that its AutoBackbone makes.

    `transformers/swin` is an architecture with the defaults of its config; `transformers/OWNER/NAME` a checkpoint of
    the hub, perhaps with `@REVISION`, and `transformers/./FOLDER` or `transformers//FOLDER` one on disk, with a
    config.json. `out_indices` picks stages, counted as in transformers (0 is mostly the stem; the default is the
    config's, mostly the last). `pretrained` loads the weights of the checkpoint; those of a file where it is a path or
    a `WeightsFile`. `options` are fields of the config. No code of a checkpoint is ever run.
    """

    source: ClassVar[str | None] = "transformers"
    weights_bands: ClassVar[tuple[str, ...]] = RGB

    name: str = field(validator=_validate_checkpoint_name)
    out_indices: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=[NON_EMPTY, OPTIONAL_INDEX], kw_only=True
    )
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=IS_PRETRAINED, kw_only=True)
    options: Options = field(
        default=(),
        converter=convert_options,
        validator=[ForbiddenKeys(FORBIDDEN_TRANSFORMERS_OPTIONS), BOUNDED_OPTIONS],
        kw_only=True,
    )

    @property
    def folder(self) -> Path | None:
        """The folder of a checkpoint on disk."""
        return Path(self.name.partition("#")[0]) if self.name.startswith(("/", "./", "../")) else None

    @property
    def is_architecture(self) -> bool:
        """True for an architecture, which has no weights; False for a checkpoint."""
        return self.folder is None and "/" not in self.name

    def copy_without_pretrained(self) -> Self:
        """Return the part without weights; the name of a folder gets a hash of its config.json, which may change."""
        plain = evolve(self, pretrained=False)
        file = None if self.folder is None else self.folder / "config.json"
        if file is None or not file.is_file():
            return plain
        import hashlib  # not at the top: few checks need it, and its import takes time

        return evolve(plain, name=f"{self.name}#{hashlib.sha256(file.read_bytes()).hexdigest()[:24]}")


PARTS = (Transformers,)
