"""The backbones of TerraTorch: `terratorch/NAME`, and which of its arguments each has. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

from attrs import evolve, field, frozen

from composer.feature import FRAMES, Feature
from composer.parts.fields import (
    BOUNDED_OPTIONS,
    FRAME_COUNT,
    NON_EMPTY,
    OPTIONAL_INDEX,
    ForbiddenKeys,
    FrozenDict,
    Options,
    convert_optional_int_list,
    convert_options,
)
from composer.parts.kinds import ProbedEncoder
from composer.parts.terratorch_names import FAMILIES, KNOWN_ABSENT, UNSUPPORTED_BACKBONES, Family, explain_absence
from composer.parts.weights import IS_PRETRAINED, Pretrained, convert_pretrained
from composer.problem import suggest

_FIELD = "it is a field of its own"
_CHANNELS = "it is the channels of the input"
_FRAMES = "it is the frames of the input"
_WEIGHTS = "composer loads weights itself: give the path of a file as pretrained"
_BANDS = "give the names of the channels as bands"
FORBIDDEN_TERRATORCH_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "name": _FIELD,
        "out_indices": _FIELD,
        "pretrained": _FIELD,
        "modalities": _FIELD,
        "bands": _FIELD,
        "model_bands": _BANDS,
        "pretrained_bands": "the weights tell their bands",
        "in_chans": _CHANNELS,
        "in_channels": _CHANNELS,
        "n_channels": _CHANNELS,
        "num_frames": _FRAMES,
        "frames": _FIELD,
        "ckpt_path": _WEIGHTS,
        "ckpt_data": _WEIGHTS,
        "weights": _WEIGHTS,
        "init_cfg": _WEIGHTS,
        "norm_eval": "model.freeze stops the drift of statistics",
        "encoder_only": "an encoder has no decoder",
        "features_only": "composer makes the network itself",
    }
)
"""Arguments of TerraTorch that `options` may not hold, each with the reason why."""

MODALITIES: Mapping[str, int] = MappingProxyType({"S2L2A": 12, "S2L1C": 13, "S1GRD": 2, "S1RTC": 2, "RGB": 3, "DEM": 1})
"""The images that TerraMind has weights for, by the names that TerraTorch has for them, each with its channels: those
of its `MODALITY_INFO`.
"""


def _validate_backbone_name(_: object, __: object, value: Any) -> None:
    if value in UNSUPPORTED_BACKBONES:
        raise ValueError(
            f"terratorch/{value} cannot be had: {UNSUPPORTED_BACKBONES[value][0]}; use {UNSUPPORTED_BACKBONES[value][1]}"
        )
    if value not in FAMILIES and (reason := explain_absence(str(value))):
        raise ValueError(f"terratorch/{value} cannot be had: {reason}")
    if value not in FAMILIES:
        raise ValueError(f"TerraTorch has no backbone {value!r}: {suggest(str(value), FAMILIES)}")


def _convert_names(values: Any) -> tuple[str, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value for value in values):
        raise ValueError(f"a list of names is needed (got {values!r})")
    if len(set(values)) < len(values):
        raise ValueError(f"each name is given once (got {list(values)!r})")
    return tuple(values)


_BACKBONE_DEFAULTS: Mapping[str, Any] = {"out_indices": None, "pretrained": False, "options": ()}


def _build_backbone_defaults(family: Family) -> Mapping[str, Any]:
    """The fields that a backbone has, beside those that all have."""
    own = [("bands", family.bands), ("frames", family.frames), ("modalities", family.several)]
    return {**_BACKBONE_DEFAULTS, **{name: None for name, has in own if has}}


def _convert_bands(values: Any) -> tuple[str, ...] | FrozenDict | None:
    """Return the names of bands; those of each modality where they are given so, as a mapping or as pairs."""
    is_pairs = isinstance(values, tuple) and any(isinstance(entry, tuple) for entry in values)
    if not isinstance(values, Mapping) and not is_pairs:
        return _convert_names(values)
    return FrozenDict({name: _convert_names(names) for name, names in dict(values).items()})


def _validate_modalities(_: object, __: object, value: tuple[str, ...] | None) -> None:
    for name in value or ():
        if name in ("facts", "pretrained"):
            raise ValueError(f"{name!r} cannot be the name of a modality")


@frozen
class TerraTorch(ProbedEncoder):
    """A backbone of TerraTorch's own registry: `terratorch/NAME`.

    `out_indices` picks levels among all that the backbone has, in any order (TerraTorch's default where it is absent:
    every block of a transformer, the last level of a pyramid). `pretrained` is true for the weights that TerraTorch
    publishes for this name, false, the path of a file with such weights, or a `WeightsFile`. `bands` names the
    channels of the image, as TerraTorch does (`BLUE`, `NIR_NARROW`) or as the weights do (`B2`): the first layer
    takes those channels of the weights, and a band that they do not have begins at random; DOFA is told their
    wavelengths. TerraMind takes the bands of each modality, `bands: {S2L2A: [BLUE, GREEN, RED]}`; a list is that of
    the one modality that `modalities` names. `frames` is how many Prithvi sees at once: as many as its input has.
    `modalities` says of what modality an image is that TerraMind is fed by itself; several are fed by their names,
    `from: {S2L2A: optical, S1GRD: radar}`. A name that TerraMind has no weights for is a new modality where this
    field lists it. `options` are other arguments of the constructor.
    """

    source: ClassVar[str | None] = "terratorch"
    names: ClassVar[Mapping[str, str] | None] = MappingProxyType({n: family.line for n, family in FAMILIES.items()})
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {name: _build_backbone_defaults(family) for name, family in FAMILIES.items()}
    )
    refused: ClassVar[Mapping[str, tuple[str, str]]] = UNSUPPORTED_BACKBONES
    outside: ClassVar[Mapping[str, str]] = KNOWN_ABSENT

    name: str = field(validator=_validate_backbone_name)
    out_indices: tuple[int, ...] | None = field(
        default=None, converter=convert_optional_int_list, validator=[NON_EMPTY, OPTIONAL_INDEX], kw_only=True
    )
    pretrained: Pretrained = field(default=False, converter=convert_pretrained, validator=IS_PRETRAINED, kw_only=True)
    bands: tuple[str, ...] | Options | None = field(
        default=None, converter=_convert_bands, validator=NON_EMPTY, kw_only=True
    )
    frames: int | None = field(default=None, validator=FRAME_COUNT, kw_only=True)
    modalities: tuple[str, ...] | None = field(
        default=None, converter=_convert_names, validator=[NON_EMPTY, _validate_modalities], kw_only=True
    )
    options: Options = field(
        default=(),
        converter=convert_options,
        validator=[ForbiddenKeys(FORBIDDEN_TERRATORCH_OPTIONS), BOUNDED_OPTIONS],
        kw_only=True,
    )

    def __attrs_post_init__(self) -> None:
        known = self.defaults[self.name]
        for name in ("bands", "frames", "modalities"):
            if name not in known and getattr(self, name) is not None:
                raise ValueError(f"terratorch/{self.name} has no field {name!r}")
        if isinstance(self.bands, FrozenDict) and not self.family.several:
            raise ValueError(f"bands must be a list of names: terratorch/{self.name} takes one image")

    @property
    def family(self) -> Family:
        """What is known of backbones of this kind without TerraTorch."""
        return FAMILIES[self.name]

    @property
    def channel_bands(self) -> tuple[str, ...] | None:
        """The names of the channels of the one image that it takes."""
        return None if isinstance(self.bands, FrozenDict) else self.bands  # type: ignore[return-value]

    def get_modality_bands(self, modalities: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the names of the bands by modality, of those that are given.

        Raises ValueError for a list of names that might be those of several modalities.
        """
        if self.bands is None or isinstance(self.bands, FrozenDict):
            return self.bands or {}
        if len(modalities) != 1:
            raise ValueError("a list of bands is that of one modality")
        return {modalities[0]: self.bands}  # type: ignore[dict-item]

    @property
    def takes_names(self) -> bool:
        """Whether it takes several images, each by the name of its modality."""
        return self.family.several

    @property
    def image_names(self) -> tuple[str, ...]:
        """The modalities that it lists, or else those that there are weights for."""
        return (self.modalities or tuple(MODALITIES)) if self.family.several else ()

    def find_image_names(self, channels: tuple[int, ...]) -> tuple[str, ...] | None:
        """Modalities of so many channels, each once; one of the user's own may have any number."""
        free = sorted(self.image_names, key=lambda name: name not in MODALITIES)
        found = []
        for count in channels:
            name = next((name for name in free if MODALITIES.get(name, count) == count), None)
            if name is None:
                return None
            free.remove(name)
            found.append(name)
        return tuple(found)

    def copy_with_inputs(self, /, *images: Feature, **named: Feature) -> Self:  # noqa: ARG002
        """With the frames of its image, where it sees several at once and does not say how many."""
        if self.family.frames and self.frames is None and images and images[0].axes == FRAMES:
            return evolve(self, frames=images[0].frames)
        return self
