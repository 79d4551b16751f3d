"""What is said where a network of timm cannot be had, or not as it is asked for."""

from __future__ import annotations

import re
from fractions import Fraction

from composer.adapters.rounding import RoundingMismatch
from composer.adapters.timm.networks import get_declared_arguments
from composer.adapters.unloadable import reject_weights
from composer.contracts.rules import Rejection
from composer.feature import format_count
from composer.parts import Timm
from composer.parts.weights import get_weights_file
from composer.sizes import SizeConstraint

_UNEXPECTED_ARGUMENT = re.compile(r"unexpected keyword argument '(\w+)'")


def reject_timm_arguments(part: Timm, error: Exception) -> Rejection:
    """A constructor that raised; Python names an argument that it has not."""
    unexpected = _UNEXPECTED_ARGUMENT.search(str(error))
    named = (
        [unexpected[1]]
        if unexpected and unexpected[1] in get_declared_arguments(part)
        else get_declared_arguments(part)
    )
    given = ", ".join(named) or "its arguments"
    return _reject_network("refuses its arguments", _format_timm_error(error), f"correct or leave out {given}")


def reject_timm_sizes(part: Timm, channels: int, error: Exception | None) -> Rejection:
    """A network that ran nowhere; `error` is what it raised, if it did."""
    given = ", ".join(get_declared_arguments(part))
    return _reject_network(
        f"runs at no image size tried with {format_count(channels, 'input channel')}",
        _format_timm_error(error) if error else "cells that are not square, or levels of other channels than it states",
        f"correct or leave out {given}" if given else "choose another network",
    )


def reject_tokens(error: Exception) -> Rejection:
    """A network that has no tokens to give."""
    return _reject_network(
        "cannot give its tokens", _format_timm_error(error), "leave tokens out: maps are what it gives"
    )


def reject_norm(error: Exception | None) -> Rejection:
    """A network that has no final norm for its levels, or does not take the wish for it."""
    if error is not None:
        return _reject_network("cannot apply its final norm to its levels", _format_timm_error(error), "leave norm out")
    return Rejection(
        code="network",
        kind="wrong_output",
        expected="has no final norm that norm could apply",
        got="levels as they are",
        repair="leave norm out",
        about="norm",
    )


def reject_img_size(size: tuple[int, int], sizes: SizeConstraint) -> Rejection:
    """Return the refusal of an `img_size` that is not one of the sizes the network takes."""
    nearest = sizes.compute_padded_size(*size)
    return Rejection(
        code="sizes",
        kind="wrong_output",
        expected=f"takes img_size: {sizes}",
        got=f"{size[0]} × {size[1]}",
        repair=f"img_size: {list(nearest)}" if nearest else "leave img_size out",
        about="img_size",
    )


def reject_fixed_size(sizes: SizeConstraint, error: Exception | None) -> Rejection:
    """A network that takes images of one size; `error` is what it raised at another, if it did."""
    return Rejection(
        code="sizes",
        kind="raises" if error else "wrong_output",
        expected="gives what it promises at one image size only",
        got=str(sizes),
        repair="leave any_size out",
        about="any_size",
    )


def reject_any_size(
    misfit: RoundingMismatch, stride: Fraction | None, error: Exception | None, multiple: int
) -> Rejection:
    """A network that takes multiples of its largest stride only; `stride` and `error` are those of the misfit."""
    if misfit.grid is None:
        rule = "does not run at every image size"
        got = "levels of other channels than it states" if error is None else _format_timm_error(error)
    else:
        rule = "has levels that round neither down nor up at every image size"
        got = f"{misfit.grid[0]} × {misfit.grid[1]} cells of stride {stride}"
    return Rejection(
        code="sizes",
        kind="raises" if error else "wrong_output",
        expected=rule,
        got=f"at {misfit.height} × {misfit.width}, {got}",
        repair=f"leave any_size out: images are then padded to multiples of {multiple}",
        about="any_size",
    )


def reject_timm_weights(part: Timm, error: Exception) -> Rejection:
    """Weights that cannot be had, or do not fit."""
    source = get_weights_file(part.pretrained)
    if source is None:
        return reject_weights(
            "cannot load the weights that timm publishes for it",
            error,
            "check the connection, give the path of a weights file, or set pretrained: false",
            part.pretrained,
        )
    repair = "give the path of a weights file that fits this network"
    return reject_weights(f"cannot load the weights {source[0]}", error, repair, part.pretrained)


def _format_timm_error(error: Exception) -> str:
    words = " ".join(str(error).split())[:300]
    return f"timm says {type(error).__name__}{': ' if words else ''}{words}"


def _reject_network(expected: str, got: str, repair: str) -> Rejection:
    return Rejection(code="network", kind="raises", expected=expected, got=got, repair=repair)
