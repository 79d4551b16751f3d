"""Modules of one's own as encoders: used as they are, once they are seen to give what they declare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from composer.contracts.rules import Rejection, RejectionError, compute_implied_sizes
from composer.feature import Features
from composer.modules.dispatch import module
from composer.modules.generators import SeededGenerator
from composer.parts import Custom
from composer.sizes import Conflict, SizeConstraint, intersect


@module.register(Custom)
def _(part: Custom, _: Features) -> nn.Module:
    """The module itself, checked by one forward pass over one small image, in eval mode and without gradients.

    Raises Refused where it gives something else than declared. The module is left as it was.
    """
    network = part.module
    if not isinstance(network, nn.Module):
        raise RejectionError(_reject_declaration("must hold a torch.nn.Module", repr(network)))
    height, width = _find_small_custom_size(part)
    promised = [f.shape(1, height, width) for f in part.features]
    try:
        given = _measure_custom_shapes(network, (part.channels, *([part.frames] if part.frames else []), height, width))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise RejectionError(
            _reject_declaration(f"must take an image of {height} × {width}, which its sizes admit", said)
        ) from error
    if given != promised:
        raise RejectionError(_reject_declaration(f"declares {promised} for an image of {height} × {width}", str(given)))
    return network


def _find_small_custom_size(part: Custom) -> tuple[int, int]:
    """A small size that the declaration admits; where it may be so, not square, to tell rows from columns."""
    sizes = intersect([("sizes", part.sizes), *(("features", compute_implied_sizes(f)) for f in part.features)])
    if isinstance(sizes, Conflict):
        raise RejectionError(
            _reject_declaration(
                f"declares features and sizes that exclude each other: {sizes.first_sizes}", str(sizes.second_sizes)
            )
        )
    assert isinstance(sizes, SizeConstraint)
    least = sizes.compute_padded_size(1, 1)
    assert least is not None
    return sizes.compute_padded_size(least[0], 2 * least[1]) or least


def _measure_custom_shapes(network: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    parameter = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, *size, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(image)
    return [tuple(x.shape) for x in ([out] if isinstance(out, Tensor) else out)]


@contextmanager
def use_eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode for as long as it lasts; then every module has the mode that it had."""
    modes = [(child, child.training) for child in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def _reject_declaration(expected: str, got: str) -> Rejection:
    return Rejection(
        code="declaration", kind="wrong_output", expected=expected, got=got, repair="correct features= or sizes="
    )
