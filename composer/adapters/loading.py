"""Which library a source stands for, whether it is there, and importing its adapter. No torch here."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType

from attrs import frozen

from composer.contracts.rules import Refusal


@frozen
class Library:
    """A foreign library: the name that it is imported by, and what pip installs."""

    package: str
    requirement: str


LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {
        "timm": Library("timm", "timm"),
        "smp": Library("segmentation_models_pytorch", "'segmentation-models-pytorch>=0.6'"),
    }
)
"""The libraries that have an adapter, by the source that a spec writes."""


def installed(source: str) -> bool:
    """Whether the library of a source is there. It is not imported, so it may yet be broken."""
    return find_spec(LIBRARIES[source].package) is not None


def loaded(source: str) -> Refusal | None:
    """Import the adapter of a source, and its library; or why that cannot be.

    A source that has no adapter here is somebody else's, who has registered what it needs.
    """
    if source not in LIBRARIES:
        return None
    library, adapter = LIBRARIES[source], f"composer.adapters.{source}"
    try:
        with nullcontext() if adapter in sys.modules else _contained():
            import_module(adapter)
    except Exception as error:  # a broken install is the fault of the specs that need it, and of no other
        missing = isinstance(error, ModuleNotFoundError) and error.name == library.package
        return _not_installed(library) if missing else _broken(library, error)
    return None


@contextmanager
def _contained() -> Iterator[None]:
    """Keep what an import does besides to itself: warnings, log lines, what it prints, environment variables."""
    environment, disabled = dict(os.environ), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _not_installed(library: Library) -> Refusal:
    return Refusal(
        code="install",
        kind="policy",
        expected=f"needs {library.package}",
        got="no installation of it",
        repair=f"pip install {library.requirement}",
    )


def _broken(library: Library, error: Exception) -> Refusal:
    return Refusal(
        code="install",
        kind="policy",
        expected=f"needs {library.package}, which cannot be imported",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}",
        repair=f"pip install --force-reinstall {library.requirement}",
    )
