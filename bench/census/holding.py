"""Holding the catalogue to the networks themselves: what infer says, and what a forward pass gives. For a process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from attrs import frozen

from bench.census.census import CPU_NETWORKS
from composer.adapters.probing import ShapeInferenceMode
from composer.building import build
from composer.errors import SpecError
from composer.graph import chain
from composer.inference import TypedGraph, infer
from composer.layouts import Image
from composer.parts import EmbeddingHead, Timm

VERIFIED_SIZES = ((96, 160), (288, 192))
"""The images beside those of its own size that a network is fed that takes others, or the next larger that it takes."""


Size = tuple[int, int]


@frozen
class NetworkVerification:
    """A network that was held to what is said of it: the sizes at which it does that, and what is wrong."""

    name: str
    sizes: tuple[Size, ...] = ()
    wrong: str | None = None
    alone: str | None = None
    """Why it takes images of its own size alone."""


def verify_network(name: str) -> NetworkVerification:
    """Run a network at its own size and, where it takes others, at two more, without weights and on one thread."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _verify_at_sizes(name)
        except SpecError as error:
            return NetworkVerification(name, wrong=error.problems[0].message)
        except Exception as error:  # whatever a network raises
            return NetworkVerification(name, wrong=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _verify_at_sizes(name: str) -> NetworkVerification:
    own = _infer_network(name, None)
    if own.sizes.height is not None and own.sizes.width is not None:
        return _verify_fixed_size(name, own)
    seen: list[Size] = []
    for size in _iter_sizes(own):
        wrong = _find_shape_mismatch(own, size)
        if wrong:
            return NetworkVerification(name, tuple(seen), wrong)
        seen.append(size)
    return NetworkVerification(name, tuple(seen))


def _iter_sizes(typed: TypedGraph) -> Iterator[Size]:
    for height, width in ((224, 224), *VERIFIED_SIZES):
        size = typed.sizes.compute_padded_size(height, width)
        assert size is not None
        yield size


def _verify_fixed_size(name: str, own: TypedGraph) -> NetworkVerification:
    """A network of one size: at that one, and made for twice as much, to one side and to both."""
    height, width = own.sizes.compute_padded_size(1, 1) or (1, 1)
    wrong = _find_shape_mismatch(own, (height, width))
    seen: list[Size] = [] if wrong else [(height, width)]
    alone = None
    for size in ((2 * height, 2 * width), (height, 2 * width)):
        try:
            other = _infer_network(name, size)
        except SpecError as error:
            alone = error.problems[0].message
            continue
        wrong = wrong or _find_shape_mismatch(other, size)
        seen += [] if wrong else [size]
    return NetworkVerification(name, tuple(seen), wrong, alone)


def _infer_network(name: str, size: Size | None) -> TypedGraph:
    return infer(chain(Timm(name), EmbeddingHead(), input=Image(size=size)))


def _find_shape_mismatch(typed: TypedGraph, size: Size) -> str | None:
    """What a forward pass gives that was not promised; None where all is as it was."""
    device = "cpu" if typed.graph.nodes[0].part.name.startswith(CPU_NETWORKS) else "meta"  # type: ignore[union-attr]
    model = build(typed, device=device).eval()  # type: ignore[arg-type]
    promised = [feature.shape(1, *size) for feature in typed.features["encoder"]]
    with torch.no_grad(), ShapeInferenceMode() if device == "meta" else nullcontext():
        given = [tuple(x.shape) for x in model.encoder(torch.empty(1, 3, *size, device=device))]  # type: ignore[operator]
    return None if given == promised else f"at {size[0]} × {size[1]} it gives {given}, and {promised} is promised"
