"""What is said where a backbone of transformers cannot be had, or not as it is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable

import transformers

from composer.adapters.unloadable import reject_weights
from composer.contracts.rules import Rejection
from composer.feature import format_count
from composer.parts import Transformers
from composer.parts.fields import MAX_IN_OPTIONS
from composer.parts.weights import get_weights_file
from composer.problem import suggest


def reject_unknown_architecture(name: str, known: Iterable[str]) -> Rejection:
    """A name that is no architecture, and no checkpoint either."""
    return _reject_network(
        "is not an architecture that AutoBackbone makes",
        f"transformers {transformers.__version__}",
        suggest(name, known),
    )


def reject_foreign_config(kind: str | None) -> Rejection:
    """A checkpoint of something else."""
    return _reject_network(
        "is no checkpoint of an architecture that AutoBackbone makes",
        f"model_type {kind!r}",
        "choose another checkpoint",
    )


def reject_timm_wrapper(backbone: str | None) -> Rejection:
    """A wrapper around a network of timm, which can be had without it."""
    return Rejection(
        code="network",
        kind="policy",
        expected="is a wrapper around a network of timm",
        got=backbone or "no name of one",
        repair=f"use timm/{backbone or 'NAME'}",
    )


def reject_unreadable_config(part: Transformers, error: Exception) -> Rejection:
    """A checkpoint whose config cannot be read."""
    return Rejection(
        code="network",
        kind="raises",
        expected="cannot read the config of this checkpoint",
        got=_format_transformers_error(error),
        repair="give the path of a folder that holds a config.json"
        if part.folder is not None
        else "check the name and the connection, or give the path of a folder that holds the checkpoint",
    )


def reject_transformers_option(name: str, known: Iterable[str]) -> Rejection:
    """A field that the config has not: it would be kept, and do nothing."""
    return Rejection(
        code="option",
        kind="wrong_output",
        expected=f"has no field {name!r} in its config",
        got=f"transformers {transformers.__version__}",
        repair=suggest(name, known),
        about="options",
    )


def reject_large_config(name: str, number: int) -> Rejection:
    """A checkpoint whose config would have its network made for minutes."""
    return Rejection(
        code="network",
        kind="policy",
        expected=f"has a config whose {name} comes to at most {MAX_IN_OPTIONS:,}",
        got=f"{number:,}",
        repair="choose another checkpoint",
    )


def reject_stage_index(position: int, index: int, count: int) -> Rejection:
    """A stage that there is not."""
    return Rejection(
        code="index",
        kind="raises",
        expected=f"has stages 0 to {count - 1}",
        got=f"stage {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def reject_stage_order(indices: tuple[int, ...], ordered: list[int]) -> Rejection:
    """Stages in another order than their own."""
    return Rejection(
        code="order",
        kind="raises",
        expected="gives its stages in its own order, each once",
        got=f"out_indices {list(indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )


def reject_transformers_config(part: Transformers, error: Exception) -> Rejection:
    """A network that cannot be made of its config: another library is missing, or the options are not for it."""
    missing = re.search(r"requires the (\w+) library", str(error)) if isinstance(error, ImportError) else None
    if missing:
        return Rejection(
            code="install",
            kind="policy",
            expected=f"needs {missing[1]}",
            got="no installation of it",
            repair=f"pip install {missing[1]}",
        )
    given = ", ".join(name for name, _ in part.options)
    return _reject_network(
        "cannot be made of its config",
        _format_transformers_error(error),
        f"correct or leave out {given}" if given else "choose another",
    )


def reject_transformers_sizes(part: Transformers, channels: int, error: Exception | None) -> Rejection:
    """A network that ran nowhere, `error` being what it raised; or without an error, one whose cells are not square."""
    given = ", ".join(name for name, _ in part.options)
    if error is None:
        return Rejection(
            code="network",
            kind="policy",
            expected="gives cells that are not square",
            got="another stride from top to bottom than from left to right",
            repair="choose earlier stages with out_indices, or another network",
        )
    return _reject_network(
        f"runs at no image size tried with {format_count(channels, 'input channel')}",
        _format_transformers_error(error),
        f"correct or leave out {given}" if given else "choose another network",
    )


def reject_transformers_weights(part: Transformers, error: Exception) -> Rejection:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        repair = "give the path of a weights file that fits this network, or set pretrained: false"
        return reject_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)
    if part.folder is None and "/" not in part.name:
        return Rejection(
            code="weights",
            kind="raises",
            expected="is an architecture, and has no weights",
            got="pretrained: true",
            repair=f"name a checkpoint, transformers/OWNER/{part.name}-…, or set pretrained: false",
            about="pretrained",
        )
    repair = "check the connection, give the path of a folder that holds the checkpoint, or set pretrained: false"
    return reject_weights("cannot load the weights of this checkpoint", error, repair, part.pretrained)


def _format_transformers_error(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _reject_network(expected: str, got: str, repair: str) -> Rejection:
    return Rejection(code="network", kind="raises", expected=expected, got=got, repair=repair)
