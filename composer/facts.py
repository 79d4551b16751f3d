"""describe(): what is known of foreign encoders, remembered on disk so that it is found out once. No torch here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from attrs import asdict

from composer.catalogue import known_facts, stamp
from composer.contracts import Refusal
from composer.feature import Feature
from composer.libraries import LIBRARIES, adapter, loaded
from composer.parts import Channels, Facts, Probed, Timm, part_name
from composer.sizes import Sizes

FORMAT = 8
"""The format of a file of facts. A file of another format is found out anew."""


def describe(part: Probed, channels: Channels) -> Facts | Refusal:
    """The facts of an encoder that is fed an image of `channels` channels, or why there are none.

    Of several images, `channels` are those of each by name: pairs, in the order in which the encoder is fed them.

    The catalogue knows every network of one version of timm, which is the one it answers for, and where none is
    installed. What it cannot tell is probed, which imports torch and the library and takes seconds; no weights are
    made and nothing is downloaded. What was probed is kept in the folder that the environment variable COMPOSER_CACHE
    names (`~/.cache/composer` by default), a file for each question, under the version of the library that
    answered. A folder that cannot be written to is no error.
    """
    if part.source not in LIBRARIES:
        return Refusal(
            code="facts",
            kind="policy",
            expected="is not known to describe()",
            got=type(part).__name__,
            repair="hand in a describe= that knows it",
        )
    return _remembered(part.unweighted(), channels)


@cache
def _remembered(part: Probed, channels: Channels) -> Facts | Refusal:
    assert part.source is not None
    library = LIBRARIES[part.source]
    versions = library.versions()
    told = (
        known_facts(part, channels)
        if isinstance(part, Timm) and isinstance(channels, int) and versions in (None, f"timm-{stamp()}")
        else None
    )
    if told is not None:
        return told
    if versions is None:
        return library.missing()
    question = {"part": part_name(part), "channels": _plain(channels), **_fields(part)}
    folder = _folder()
    if folder is None:
        return _probed(part, channels)
    file = folder / "facts" / versions / f"{_name_of(question)}.json"
    known = _read(file, question)
    if known is not None:
        return known
    facts = _probed(part, channels)
    if isinstance(facts, Facts):
        _keep(file, question, facts)
    return facts


def _probed(part: Probed, channels: Channels) -> Facts | Refusal:
    assert part.source is not None
    refusal = loaded(part.source)
    if refusal is not None:
        return refusal
    from composer.memory import free_memory
    from composer.modules.growth import held_to

    with held_to(free_memory()):
        found: Facts | Refusal = adapter(part.source).probe(part, channels)
    return found


def _folder() -> Path | None:
    """Where facts are kept; None for a user who has no home, as in a container."""
    try:
        return Path(os.environ.get("COMPOSER_CACHE") or Path.home() / ".cache" / "composer")
    except RuntimeError:
        return None


def _fields(part: Probed) -> dict[str, Any]:
    fields: dict[str, Any] = _plain(asdict(part))  # type: ignore[arg-type]
    return fields


def _plain(value: Any) -> Any:
    """A value through JSON, so that what is read back is compared like with like."""
    return json.loads(json.dumps(value))


def _name_of(question: Mapping[str, Any]) -> str:
    import hashlib  # not at the top: what stands in the catalogue needs no file, and would wait for it

    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:24]


def _read(file: Path, question: Mapping[str, Any]) -> Facts | None:
    """What a file answers; None where it is absent, damaged, of another format, or answers another question."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["question"] != question:
            return None
        return _facts(content["facts"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _facts(data: dict[str, Any]) -> Facts:
    features = tuple(Feature(**feature) for feature in data.pop("features"))
    return Facts(
        features=features,
        sizes=Sizes(**data.pop("sizes")),
        mean=tuple(data.pop("mean")),
        std=tuple(data.pop("std")),
        patch=_sides(data.pop("patch")),
        **data,
    )


def _sides(patch: list[int] | None) -> tuple[int, int] | None:
    return None if patch is None else (patch[0], patch[1])


def _keep(file: Path, question: Mapping[str, Any], facts: Facts) -> None:
    from composer.writing import write_whole

    content = json.dumps({"format": FORMAT, "question": question, "facts": asdict(facts)}, default=str)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, lambda partial: partial.write_text(content, encoding="utf-8"))
