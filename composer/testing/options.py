"""What `check_contract` is told of a part by keyword, and a module tells the plugin of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import field, fields, frozen

from composer.feature import Feature, Features
from composer.testing.inputs import Inputs
from composer.testing.laws import LAWS, REJECTIONS_LAW

DEFAULT_EXAMPLES = 40
ALL_LAWS = (*LAWS, REJECTIONS_LAW)
EXAMPLE_INPUTS = "[((Feature(channels=8),),)]"
INPUTS_EXAMPLE = f"inputs={EXAMPLE_INPUTS}"


def _convert_laws(names: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(names, Iterable):
        raise TypeError(f"laws and without must be names of laws (got {names!r})")
    told = (names,) if isinstance(names, str) else tuple(names)
    for name in told:
        if name not in ALL_LAWS:
            raise ValueError(f"there is no law {name!r}: the laws are {', '.join(ALL_LAWS)}")
    return told


def _convert_inputs(runs: Iterable[Sequence[Features] | Mapping[str, Features]] | None) -> tuple[Inputs, ...] | None:
    if runs is None:
        return None
    if not isinstance(runs, Iterable):
        raise TypeError(
            f"inputs must hold what the part is fed, a run after the other, as in {INPUTS_EXAMPLE} (got {runs!r})"
        )
    told = tuple(map(_convert_run, runs))
    if not told:
        raise ValueError(f"inputs must hold what the part is fed in one run at least, as in {INPUTS_EXAMPLE}")
    return told


def _convert_run(given: Sequence[Features] | Mapping[str, Features]) -> Inputs:
    several = given.values() if isinstance(given, Mapping) else given
    if not isinstance(several, Iterable) or not all(map(_are_features, several)):
        raise TypeError(
            f"each of inputs must hold tuples of features, one for each input, as in {INPUTS_EXAMPLE} (got {given!r})"
        )
    if isinstance(given, Mapping):
        return Inputs((), tuple((name, tuple(features)) for name, features in given.items()))
    return Inputs(tuple(map(tuple, given)))


def _are_features(thing: object) -> bool:
    return isinstance(thing, list | tuple) and all(isinstance(one, Feature) for one in thing)


def _check_count(number: Any) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"examples and least must be whole numbers of at least 1 (got {number!r})")
    return number


def _convert_mapping(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"arguments and fields must be mappings of names to values (got {values!r})")
    return dict(values)


@frozen(kw_only=True)
class Options:
    """What a part is fed, which laws it is held to, in how many runs, and how it is made. See `check_contract`."""

    inputs: tuple[Inputs, ...] | None = field(default=None, converter=_convert_inputs)
    laws: tuple[str, ...] = field(default=ALL_LAWS, converter=_convert_laws)
    without: tuple[str, ...] = field(default=(), converter=_convert_laws)
    examples: int = field(default=DEFAULT_EXAMPLES, converter=_check_count)
    arguments: dict[str, Any] = field(factory=dict, converter=_convert_mapping)
    least: int = field(default=1, converter=_check_count)
    fields: dict[str, Any] = field(factory=dict, converter=_convert_mapping)

    def __attrs_post_init__(self) -> None:
        if not self.held:
            raise ValueError("laws, less those in without, must leave one law to hold the part to")

    @property
    def held(self) -> tuple[str, ...]:
        """The laws that the part is held to."""
        return tuple(law for law in self.laws if law not in self.without)


def parse_options(options: Mapping[str, Any], examples: int) -> Options:
    """Options as a module tells them. Raises TypeError and ValueError for what is none, with a sentence."""
    if not isinstance(options, Mapping):
        raise TypeError(f"a mapping of options is wanted (got {options!r})")
    known = [one.name for one in fields(Options)]
    for name in options:
        if name not in known:
            raise TypeError(f"there is no option {name!r}: the options are {', '.join(known)}")
    return Options(**{"examples": examples, **options})
