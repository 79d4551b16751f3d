"""Look up what an encoder emits, and import the library that it comes from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import asdict, frozen

from composer.isolation import guard_import
from composer.layouts import Feature
from composer.parts import Channels, EncoderInfo, ProbedEncoder, Timm, get_part_name
from composer.parts.rules import Rejection
from composer.sizes import SizeConstraint


@frozen
class Library:
    """A foreign library: the name it is imported by, what pip installs, and the distributions that decide its facts.

    `together` is what is installed anew where the library is broken, if it breaks with others.
    """

    package: str
    requirement: str
    distributions: tuple[str, ...]
    together: str | None = None

    def is_installed(self) -> bool:
        """Whether it is there. It is not imported, so it may yet be broken."""
        return find_spec(self.package) is not None

    def versions(self) -> str | None:
        """The versions that what is known of the library holds for, as a file may be called: `timm-1.0.31`."""
        found = [(name, _find_version(name)) for name in self.distributions]
        return "+".join(f"{name}-{one}" for name, one in found) if all(one for _, one in found) else None

    def missing(self) -> Rejection:
        """Why a part of the library cannot be had where it is not installed."""
        return Rejection(
            code="install",
            kind="policy",
            expected=f"needs {self.package}",
            got="no installation of it",
            repair=f"pip install {self.requirement}",
        )

    def reject_broken(self, error: Exception) -> Rejection:
        """Why a part of the library cannot be had where importing it raises."""
        return Rejection(
            code="install",
            kind="policy",
            expected=f"needs {self.package}, which cannot be imported",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}",
            repair=f"pip install --force-reinstall {self.together or self.requirement}",
        )


def _find_version(distribution: str) -> str | None:
    """The version that is installed: read off the folder that says so, where there is one; None where there is none.

    importlib.metadata looks for the same folder first, and takes a tenth of the time that a check may take to load.
    """
    start, end = f"{distribution.replace('-', '_')}-", ".dist-info"
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.lower().startswith(start) and name.endswith(end):
                    return name[len(start) : -len(end)]
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "timm": Library("timm", "timm", ("timm",), together="timm torch torchvision"),
        "smp": Library(
            "segmentation_models_pytorch",
            "'segmentation-models-pytorch>=0.6'",
            ("segmentation-models-pytorch", "timm"),
        ),
        "mmseg": Library(
            "mmseg",
            "'onedl-mmsegmentation>=1.4.2,<2' 'mmcv-lite>=2.1,<2.2' 'mmengine>=0.10.7,<1'",
            ("onedl-mmsegmentation", "mmcv-lite", "mmengine"),
        ),
        "transformers": Library("transformers", "'transformers>=5.23'", ("transformers",)),
        "terratorch": Library("terratorch", "'terratorch>=1.2.11,<2'", ("terratorch", "torchgeo", "timm")),
    }
)
"""The libraries that have an adapter, by the source that a spec writes."""


def get_adapter(source: str) -> Any:
    """The adapter of a source. Importing it, the first time, imports its library, and what that does besides is kept.

    Raises whatever the import raises.
    """
    name = f"composer.adapters.{source}.modules"
    with nullcontext() if name in sys.modules else guard_import():
        return import_module(name)


def import_adapter(source: str) -> Rejection | None:
    """Import the adapter of a source; or why that cannot be.

    A source that has no adapter here is somebody else's, who has registered what it needs.
    """
    if source not in LIBRARIES:
        return None
    library = LIBRARIES[source]
    try:
        get_adapter(source)
    except Exception as error:  # a broken install is the fault of the specs that need it, and of no other
        missing = isinstance(error, ModuleNotFoundError) and error.name == library.package
        return library.missing() if missing else library.reject_broken(error)
    return None


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
    info = _look_up_catalogue(part, channels, versions)
    if info is not None:
        return info
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


def _look_up_catalogue(part: ProbedEncoder, channels: Channels, versions: str | None) -> EncoderInfo | Rejection | None:
    if not isinstance(part, Timm) or not isinstance(channels, int):
        return None
    from composer.adapters.timm.catalogue import find_catalogue_info, get_catalogue_version

    return find_catalogue_info(part, channels) if versions in (None, f"timm-{get_catalogue_version()}") else None


def _probe_encoder(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    assert part.source is not None
    refusal = import_adapter(part.source)
    if refusal is not None:
        return refusal
    from composer.limits import get_free_memory
    from composer.resources import limit_bytes

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
    from composer.files import write_atomically

    content = json.dumps({"format": CACHE_FORMAT, "question": question, "facts": asdict(facts)}, default=str)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text(content, encoding="utf-8"))
