"""What is said where a network of timm cannot be had, or not as it is asked for."""

from __future__ import annotations

import re
from fractions import Fraction

from composer.adapters.rounding import Misfit
from composer.adapters.timm.networks import declared
from composer.adapters.unloadable import refuse_weights
from composer.contracts.rules import Refusal
from composer.feature import counted
from composer.parts import Timm
from composer.parts.weights import get_weights_file
from composer.sizes import Sizes

_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def arguments_refused(part: Timm, error: Exception) -> Refusal:
    """A constructor that raised; Python names an argument that it has not."""
    unexpected = _UNEXPECTED.search(str(error))
    named = [unexpected[1]] if unexpected and unexpected[1] in declared(part) else declared(part)
    given = ", ".join(named) or "its arguments"
    return _network("refuses its arguments", _said(error), f"correct or leave out {given}")


def no_size(part: Timm, channels: int, error: Exception | None) -> Refusal:
    """A network that ran nowhere; `error` is what it raised, if it did."""
    given = ", ".join(declared(part))
    return _network(
        f"runs at no image size tried with {counted(channels, 'input channel')}",
        _said(error) if error else "cells that are not square, or levels of other channels than it states",
        f"correct or leave out {given}" if given else "choose another network",
    )


def no_tokens(error: Exception) -> Refusal:
    """A network that has no tokens to give."""
    return _network("cannot give its tokens", _said(error), "leave tokens out: maps are what it gives")


def no_norm(error: Exception | None) -> Refusal:
    """A network that has no final norm for its levels, or does not take the wish for it."""
    if error is not None:
        return _network("cannot apply its final norm to its levels", _said(error), "leave norm out")
    return Refusal(
        code="network",
        kind="lies",
        expected="has no final norm that norm could apply",
        got="levels as they are",
        repair="leave norm out",
        about="norm",
    )


def not_this_size(size: tuple[int, int], sizes: Sizes) -> Refusal:
    """Return the refusal of an `img_size` that is not one of the sizes the network takes."""
    nearest = sizes.nearest(*size)
    return Refusal(
        code="sizes",
        kind="lies",
        expected=f"takes img_size: {sizes}",
        got=f"{size[0]} × {size[1]}",
        repair=f"img_size: {list(nearest)}" if nearest else "leave img_size out",
        about="img_size",
    )


def one_size(sizes: Sizes, error: Exception | None) -> Refusal:
    """A network that takes images of one size; `error` is what it raised at another, if it did."""
    return Refusal(
        code="sizes",
        kind="impossible" if error else "lies",
        expected="gives what it promises at one image size only",
        got=str(sizes),
        repair="leave any_size out",
        about="any_size",
    )


def not_any_size(misfit: Misfit, stride: Fraction | None, error: Exception | None, multiple: int) -> Refusal:
    """A network that takes multiples of its largest stride only; `stride` and `error` are those of the misfit."""
    if misfit.grid is None:
        rule = "does not run at every image size"
        got = "levels of other channels than it states" if error is None else _said(error)
    else:
        rule = "has levels that round neither down nor up at every image size"
        got = f"{misfit.grid[0]} × {misfit.grid[1]} cells of stride {stride}"
    return Refusal(
        code="sizes",
        kind="impossible" if error else "lies",
        expected=rule,
        got=f"at {misfit.height} × {misfit.width}, {got}",
        repair=f"leave any_size out: images are then padded to multiples of {multiple}",
        about="any_size",
    )


def no_weights(part: Timm, error: Exception) -> Refusal:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is None:
        return refuse_weights(
            "cannot load the weights that timm publishes for it",
            error,
            "check the connection, give the path of a weights file, or set pretrained: false",
            part.pretrained,
        )
    repair = "give the path of a weights file that fits this network"
    return refuse_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)


def _said(error: Exception) -> str:
    words = " ".join(str(error).split())[:300]
    return f"timm says {type(error).__name__}{': ' if words else ''}{words}"


def _network(expected: str, got: str, repair: str) -> Refusal:
    return Refusal(code="network", kind="impossible", expected=expected, got=got, repair=repair)
