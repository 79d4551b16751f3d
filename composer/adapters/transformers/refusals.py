"""What is said where a backbone of transformers cannot be had, or not as it is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable

import transformers

from composer.adapters.unloadable import refuse_weights
from composer.contracts.rules import Refusal
from composer.feature import counted
from composer.parts import Transformers
from composer.parts.fields import MOST_IN_OPTIONS
from composer.parts.weights import get_weights_file
from composer.problem import nearest


def unknown(name: str, known: Iterable[str]) -> Refusal:
    """A name that is no architecture, and no checkpoint either."""
    return _network(
        "is not an architecture that AutoBackbone makes",
        f"transformers {transformers.__version__}",
        nearest(name, known),
    )


def foreign_config(kind: str | None) -> Refusal:
    """A checkpoint of something else."""
    return _network(
        "is no checkpoint of an architecture that AutoBackbone makes",
        f"model_type {kind!r}",
        "choose another checkpoint",
    )


def of_timm(backbone: str | None) -> Refusal:
    """A wrapper around a network of timm, which can be had without it."""
    return Refusal(
        code="network",
        kind="policy",
        expected="is a wrapper around a network of timm",
        got=backbone or "no name of one",
        repair=f"use timm/{backbone or 'NAME'}",
    )


def no_config(part: Transformers, error: Exception) -> Refusal:
    """A checkpoint whose config cannot be read."""
    return Refusal(
        code="network",
        kind="impossible",
        expected="cannot read the config of this checkpoint",
        got=_said(error),
        repair="give the path of a folder that holds a config.json"
        if part.folder is not None
        else "check the name and the connection, or give the path of a folder that holds the checkpoint",
    )


def unknown_option(name: str, known: Iterable[str]) -> Refusal:
    """A field that the config has not: it would be kept, and do nothing."""
    return Refusal(
        code="option",
        kind="lies",
        expected=f"has no field {name!r} in its config",
        got=f"transformers {transformers.__version__}",
        repair=nearest(name, known),
        about="options",
    )


def too_large(name: str, number: int) -> Refusal:
    """A checkpoint whose config would have its network made for minutes."""
    return Refusal(
        code="network",
        kind="policy",
        expected=f"has a config whose {name} comes to at most {MOST_IN_OPTIONS:,}",
        got=f"{number:,}",
        repair="choose another checkpoint",
    )


def no_stage(position: int, index: int, count: int) -> Refusal:
    """A stage that there is not."""
    return Refusal(
        code="index",
        kind="impossible",
        expected=f"has stages 0 to {count - 1}",
        got=f"stage {index}",
        repair=f"use out_indices from {-count} to {count - 1}",
        about=f"out_indices[{position}]",
    )


def out_of_order(indices: tuple[int, ...], ordered: list[int]) -> Refusal:
    """Stages in another order than their own."""
    return Refusal(
        code="order",
        kind="impossible",
        expected="gives its stages in its own order, each once",
        got=f"out_indices {list(indices)}",
        repair=f"out_indices: {ordered}, and SelectIndices for another order",
        about="out_indices",
    )


def not_made(part: Transformers, error: Exception) -> Refusal:
    """A network that cannot be made of its config: another library is missing, or the options are not for it."""
    missing = re.search(r"requires the (\w+) library", str(error)) if isinstance(error, ImportError) else None
    if missing:
        return Refusal(
            code="install",
            kind="policy",
            expected=f"needs {missing[1]}",
            got="no installation of it",
            repair=f"pip install {missing[1]}",
        )
    given = ", ".join(name for name, _ in part.options)
    return _network(
        "cannot be made of its config", _said(error), f"correct or leave out {given}" if given else "choose another"
    )


def no_size(part: Transformers, channels: int, error: Exception | None) -> Refusal:
    """A network that ran nowhere, `error` being what it raised; or without an error, one whose cells are not square."""
    given = ", ".join(name for name, _ in part.options)
    if error is None:
        return Refusal(
            code="network",
            kind="policy",
            expected="gives cells that are not square",
            got="another stride from top to bottom than from left to right",
            repair="choose earlier stages with out_indices, or another network",
        )
    return _network(
        f"runs at no image size tried with {counted(channels, 'input channel')}",
        _said(error),
        f"correct or leave out {given}" if given else "choose another network",
    )


def no_weights(part: Transformers, error: Exception) -> Refusal:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is not None:
        repair = "give the path of a weights file that fits this network, or set pretrained: false"
        return refuse_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)
    if part.folder is None and "/" not in part.name:
        return Refusal(
            code="weights",
            kind="impossible",
            expected="is an architecture, and has no weights",
            got="pretrained: true",
            repair=f"name a checkpoint, transformers/OWNER/{part.name}-…, or set pretrained: false",
            about="pretrained",
        )
    repair = "check the connection, give the path of a folder that holds the checkpoint, or set pretrained: false"
    return refuse_weights("cannot load the weights of this checkpoint", error, repair, part.pretrained)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"


def _network(expected: str, got: str, repair: str) -> Refusal:
    return Refusal(code="network", kind="impossible", expected=expected, got=got, repair=repair)
