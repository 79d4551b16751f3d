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

from composer.errors import format_error
from composer.layouts import Feature
from composer.parts import EncoderInfo, ProbedEncoder, Timm
from composer.parts.base import Channels, get_part_name
from composer.parts.rules import Rejection
from composer.process import guard_import
from composer.sizes import SizeConstraint


@frozen
class Library:
    """A foreign library: its package, the requirement for pip, and the distributions that determine its networks.

    `together` are the distributions to reinstall where the library is broken, if it depends on their versions.
    """

    package: str
    requirement: str
    distributions: tuple[str, ...]
    together: str | None = None

    def is_installed(self) -> bool:
        """Return True where the package exists. It is not imported, so it may still be broken."""
        return find_spec(self.package) is not None

    def format_versions(self) -> str | None:
        """Return the installed versions as part of a file name, `timm-1.0.31`; None where a distribution is missing."""
        versions = [(name, _find_version(name)) for name in self.distributions]
        return "+".join(f"{name}-{version}" for name, version in versions) if all(v for _, v in versions) else None

    def reject_broken(self, error: Exception) -> Rejection:
        """Reject a part of the library where importing it raises `error`."""
        return Rejection(
            code="install",
            kind="policy",
            expected=f"needs {self.package}, which cannot be imported",
            got=format_error(error),
            fix=f"pip install --force-reinstall {self.together or self.requirement}",
        )


def reject_missing(package: str, requirement: str) -> Rejection:
    """Reject a part that needs a package which is not installed; pip installs it as `requirement`."""
    return Rejection(
        code="install",
        kind="policy",
        expected=f"needs {package}",
        got="no installation of it",
        fix=f"pip install {requirement}",
    )


def _find_version(distribution: str) -> str | None:
    """Return the installed version, read from the name of its metadata folder; None where there is none.

    importlib.metadata is asked where there is no such folder: loading it takes a tenth of the time of a check.
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
"""The libraries that have an adapter, by their source in a spec."""


def get_adapter(source: str) -> Any:
    """Return the adapter of a source. The first import imports its library, without its side effects.

    Raises whatever the import raises.
    """
    name = f"composer.adapters.{source}.modules"
    with nullcontext() if name in sys.modules else guard_import():
        return import_module(name)


def import_adapter(source: str) -> Rejection | None:
    """Import the adapter of a source; return the rejection of its parts where that fails.

    A source without an adapter belongs to a third party, which has registered its own contracts and modules.
    """
    if source not in LIBRARIES:
        return None
    library = LIBRARIES[source]
    try:
        get_adapter(source)
    except Exception as error:  # a broken install must only reject the specs that need it
        if isinstance(error, ModuleNotFoundError) and error.name == library.package:
            return reject_missing(library.package, library.requirement)
        return library.reject_broken(error)
    return None


CACHE_FORMAT = 10
"""The format of a cached file. Encoders in files of another format are probed again."""


def describe(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    """Return the features and image sizes of an encoder for an image of `channels` channels, or its rejection.

    For several images, `channels` are those of each by name: pairs, in the order in which the encoder is fed them.

    The catalogue has every network of one version of timm, and is used with that version or without timm. Other
    encoders are probed, which imports torch and the library and takes seconds; no weights are made and nothing is
    downloaded. Results are cached in the folder of the environment variable COMPOSER_CACHE (`~/.cache/composer` by
    default), a file for each declaration and version of the library. A read-only folder is not an error.
    """
    if part.source not in LIBRARIES:
        return Rejection(
            code="features",
            kind="policy",
            expected="is not known to describe()",
            got=type(part).__name__,
            fix="pass a describe= that knows it",
        )
    return _describe_cached(part.copy_without_pretrained(), channels)


@cache
def _describe_cached(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    assert part.source is not None
    library = LIBRARIES[part.source]
    versions = library.format_versions()
    if isinstance(part, Timm) and isinstance(channels, int):
        from composer.adapters.timm.catalogue import find_catalogue_info, get_catalogue_version

        if versions in (None, f"timm-{get_catalogue_version()}"):
            known: EncoderInfo | Rejection | None = find_catalogue_info(part, channels)
            if known is not None:
                return known
    if versions is None:
        return reject_missing(library.package, library.requirement)
    file = _find_cache_file(part, channels, versions)
    cached = None if file is None else _read_cached(file)
    if cached is not None:
        return cached
    result = _probe_encoder(part, channels)
    if file is not None and isinstance(result, EncoderInfo):
        _store_cached(file, result)
    return result


def _probe_encoder(part: ProbedEncoder, channels: Channels) -> EncoderInfo | Rejection:
    assert part.source is not None
    rejection = import_adapter(part.source)
    if rejection is not None:
        return rejection
    from composer.limits import get_free_memory
    from composer.resources import limit_bytes

    with limit_bytes(get_free_memory()):
        result: EncoderInfo | Rejection = get_adapter(part.source).probe(part, channels)
    return result


def _find_cache_file(part: ProbedEncoder, channels: Channels, versions: str) -> Path | None:
    """Return the file of an encoder, named by a digest of its declaration; None for a user without a home."""
    from hashlib import sha256  # not at the top: networks in the catalogue need no file, and its import takes time

    try:
        folder = Path(os.environ.get("COMPOSER_CACHE") or Path.home() / ".cache" / "composer")
    except RuntimeError:  # as in a container
        return None
    declaration = {"format": CACHE_FORMAT, "part": get_part_name(part), "channels": channels, **asdict(part)}  # type: ignore[arg-type]
    digest = sha256(json.dumps(declaration, sort_keys=True).encode()).hexdigest()
    return folder / "encoders" / versions / f"{digest[:24]}.json"


def _read_cached(file: Path) -> EncoderInfo | None:
    """Read an info; None where the file is absent or damaged."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        tuples = {name: None if data[name] is None else tuple(data[name]) for name in ("mean", "std", "patch")}
        features = [Feature(**feature) for feature in data["features"]]
        return EncoderInfo(**data | tuples | {"features": features, "sizes": SizeConstraint(**data["sizes"])})
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _store_cached(file: Path, info: EncoderInfo) -> None:
    from composer.files import write_atomically

    content = json.dumps(asdict(info), default=str)
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text(content, encoding="utf-8"))
