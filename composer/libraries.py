"""Which library a source stands for, whether and in which version it is there, and importing its adapter. No torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from attrs import frozen

from composer.contracts.rules import Rejection
from composer.quiet import guard_import


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
    name = f"composer.adapters.{source}"
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
