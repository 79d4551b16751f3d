"""Holding the catalogue to the networks themselves: what infer says, and what a forward pass gives. For a process."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from attrs import frozen

from composer.adapters.shapes import ShapesOnly
from composer.adapters.timm.census import ON_THE_CPU
from composer.building import build
from composer.feature import Image
from composer.graph import chain
from composer.inference import infer
from composer.parts import EmbeddingHead, Timm
from composer.problem import SpecError
from composer.typed import Typed

SIDES = ((96, 160), (288, 192))
"""The images beside those of its own size that a network is fed that takes others, or the next larger that it takes."""

Size = tuple[int, int]


@frozen
class Held:
    """A network that was held to what is said of it: the sizes at which it does that, and what is wrong."""

    name: str
    sizes: tuple[Size, ...] = ()
    wrong: str | None = None
    alone: str | None = None
    """Why it takes images of its own size alone."""


def held(name: str) -> Held:
    """Run a network at its own size and, where it takes others, at two more, without weights and on one thread."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _held(name)
        except SpecError as error:
            return Held(name, wrong=error.problems[0].message)
        except Exception as error:  # whatever a network raises
            return Held(name, wrong=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _held(name: str) -> Held:
    own = _typed(name, None)
    if own.sizes.height is not None and own.sizes.width is not None:
        return _rebuilt(name, own)
    seen: list[Size] = []
    for size in _sizes(own):
        wrong = _wrong(own, size)
        if wrong:
            return Held(name, tuple(seen), wrong)
        seen.append(size)
    return Held(name, tuple(seen))


def _sizes(typed: Typed) -> Iterator[Size]:
    for height, width in ((224, 224), *SIDES):
        size = typed.sizes.nearest(height, width)
        assert size is not None
        yield size


def _rebuilt(name: str, own: Typed) -> Held:
    """A network of one size: at that one, and made for twice as much, to one side and to both."""
    height, width = own.sizes.nearest(1, 1) or (1, 1)
    wrong = _wrong(own, (height, width))
    seen: list[Size] = [] if wrong else [(height, width)]
    alone = None
    for size in ((2 * height, 2 * width), (height, 2 * width)):
        try:
            other = _typed(name, size)
        except SpecError as error:
            alone = error.problems[0].message
            continue
        wrong = wrong or _wrong(other, size)
        seen += [] if wrong else [size]
    return Held(name, tuple(seen), wrong, alone)


def _typed(name: str, size: Size | None) -> Typed:
    return infer(chain(Timm(name), EmbeddingHead(), input=Image(size=size)))


def _wrong(typed: Typed, size: Size) -> str | None:
    """What a forward pass gives that was not promised; None where all is as it was."""
    device = "cpu" if typed.graph.nodes[0].part.name.startswith(ON_THE_CPU) else "meta"  # type: ignore[union-attr]
    model = build(typed, device=device).eval()  # type: ignore[arg-type]
    promised = [feature.shape(1, *size) for feature in typed.features["encoder"]]
    with torch.no_grad(), ShapesOnly() if device == "meta" else nullcontext():
        given = [tuple(x.shape) for x in model.encoder(torch.empty(1, 3, *size, device=device))]  # type: ignore[operator]
    return None if given == promised else f"at {size[0]} × {size[1]} it gives {given}, and {promised} is promised"
