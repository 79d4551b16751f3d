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

from composer.catalogue import find_catalogue_info, get_catalogue_version
from composer.contracts import Rejection
from composer.feature import Feature
from composer.libraries import LIBRARIES, get_adapter, import_adapter
from composer.parts import Channels, EncoderInfo, ProbedEncoder, Timm, get_part_name
from composer.sizes import SizeConstraint

CACHE_FORMAT = 8
"""The format of a file of facts. A file of another format is found out anew."""


def describe(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    """The facts of an encoder that is fed an image of `channels` channels, or why there are none.

    Of several images, `channels` are those of each by name: pairs, in the order in which the encoder is fed them.

    The catalogue knows every network of one version of timm, which is the one it answers for, and where none is
    installed. What it cannot tell is probed, which imports torch and the library and takes seconds; no weights are
    made and nothing is downloaded. What was probed is kept in the folder that the environment variable COMPOSER_CACHE
    names (`~/.cache/composer` by default), a file for each question, under the version of the library that
    answered. A folder that cannot be written to is no error.
    """
    if part.source not in LIBRARIES:
        return Rejection(
            code="facts",
            kind="policy",
            expected="is not known to describe()",
            got=type(part).__name__,
            repair="hand in a describe= that knows it",
        )
    return _describe_cached(part.copy_without_pretrained(), channels)


@cache
def _describe_cached(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    assert part.source is not None
    library = LIBRARIES[part.source]
    versions = library.versions()
    told = (
        find_catalogue_info(part, channels)
        if isinstance(part, Timm)
        and isinstance(channels, int)
        and versions in (None, f"timm-{get_catalogue_version()}")
        else None
    )
    if told is not None:
        return told
    if versions is None:
        return library.missing()
    question = {"part": get_part_name(part), "channels": _to_json_types(channels), **_dump_fields(part)}
    folder = _get_cache_folder()
    if folder is None:
        return _probe_encoder(part, channels)
    file = folder / "facts" / versions / f"{_hash_question(question)}.json"
    known = _read_cached(file, question)
    if known is not None:
        return known
    facts = _probe_encoder(part, channels)
    if isinstance(facts, EncoderInfo):
        _store_cached(file, question, facts)
    return facts


def _probe_encoder(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    assert part.source is not None
    refusal = import_adapter(part.source)
    if refusal is not None:
        return refusal
    from composer.memory import get_free_memory
    from composer.modules.growth import limit_bytes

    with limit_bytes(get_free_memory()):
        found: EncoderInfo | Rejection = get_adapter(part.source).probe(part, channels)
    return found


def _get_cache_folder() -> Path | None:
    """Where facts are kept; None for a user who has no home, as in a container."""
    try:
        return Path(os.environ.get("COMPOSER_CACHE") or Path.home() / ".cache" / "composer")
    except RuntimeError:
        return None


def _dump_fields(part: ProbedEncoder) -> dict[str, Any]:
    fields: dict[str, Any] = _to_json_types(asdict(part))  # type: ignore[arg-type]
    return fields


def _to_json_types(value: Any) -> Any:
    """A value through JSON, so that what is read back is compared like with like."""
    return json.loads(json.dumps(value))


def _hash_question(question: Mapping[str, Any]) -> str:
    import hashlib  # not at the top: what stands in the catalogue needs no file, and would wait for it

    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:24]


def _read_cached(file: Path, question: Mapping[str, Any]) -> EncoderInfo | None:
    """What a file answers; None where it is absent, damaged, of another format, or answers another question."""
    try:
        if not file.is_file():  # a pipe would be waited for
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != CACHE_FORMAT or content["question"] != question:
            return None
        return _parse_encoder_info(content["facts"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _parse_encoder_info(data: dict[str, Any]) -> EncoderInfo:
    features = tuple(Feature(**feature) for feature in data.pop("features"))
    return EncoderInfo(
        features=features,
        sizes=SizeConstraint(**data.pop("sizes")),
        mean=tuple(data.pop("mean")),
        std=tuple(data.pop("std")),
        patch=_parse_patch(data.pop("patch")),
        **data,
    )


def _parse_patch(patch: list[int] | None) -> tuple[int, int] | None:
    return None if patch is None else (patch[0], patch[1])


def _store_cached(file: Path, question: Mapping[str, Any], facts: EncoderInfo) -> None:
    from composer.writing import write_atomically

    content = json.dumps({"format": CACHE_FORMAT, "question": question, "facts": asdict(facts)}, default=str)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text(content, encoding="utf-8"))
