"""The spec in a weights file that composer.save wrote, found without reading a tensor. No torch here."""

from __future__ import annotations

import os
from pathlib import Path

from composer.problem import Place, Problem, SpecError

SPEC_KEY = "composer.spec"
"""The key of a file's metadata under which the spec is, as text."""

WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
"""How the names of weights files end."""


def is_weights_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a path has the name of a weights file, of which only the first kind can hold a spec."""
    return Path(os.fsdecode(path)).suffix.lower() in WEIGHTS_SUFFIXES


def read_embedded_spec(path: str | os.PathLike[str]) -> str:
    """Return the spec in a weights file. Raises SpecError where there is none, or the file cannot be read."""
    # Not at the top: most specs are in files of their own.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(SPEC_KEY)
    except (OSError, ValueError, SafetensorError):
        text = None
    if text is None:
        message = "no spec was found in this weights file."
        repair = "give the YAML spec, or a file that composer.save wrote; `run` takes other weights with --weights FILE"
        raise SpecError([Problem(code="file", message=message, place=Place("", os.fsdecode(path)), repair=repair)])
    return str(text)
