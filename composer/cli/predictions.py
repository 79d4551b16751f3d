"""What a model's numbers mean: classes or values per pixel, scores or numbers for the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from composer.adapters.mmseg.parts import Mmseg
from composer.layouts import format_count
from composer.parts import ASPPRegressionHead, Part, RegressionHead, ScalarHead

Array = NDArray[Any]


MAX_VALUE_PANELS = 4
"""Panels that the values of one output are drawn in; further ones are left out, and that is said."""


MAX_CLASSES = 5
"""Classes that are told of one image."""


MAX_SCALARS = 8
"""Numbers that are told of one image."""


@frozen(eq=False)
class ClassMap:
    """A map of classes: `indices` (height, width), each the class whose score is the largest there."""

    name: str
    indices: Array
    count: int

    @property
    def shares(self) -> list[tuple[int, float]]:
        """(class, share of the pixels) of the classes present, the largest first."""
        present, pixels = np.unique(self.indices, return_counts=True)
        pairs = zip(present.tolist(), (pixels / self.indices.size).tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def __str__(self) -> str:
        """`head: 3 of 10 classes: class 2 61.0 %, class 0 30.2 %, class 7 8.8 %`."""
        shares = self.shares
        told = ", ".join(f"class {index} {format_percent(share)}" for index, share in shares[:MAX_CLASSES])
        more = f", and {len(shares) - MAX_CLASSES} more" if len(shares) > MAX_CLASSES else ""
        return f"{self.name}: {len(shares)} of {format_count(self.count, 'class', 'classes')}: {told}{more}"


@frozen(eq=False)
class ValueMap:
    """A map of numbers, (height, width). `name` says of which output, where a head has several."""

    name: str
    values: Array

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest finite number; zeros where there is none."""
        finite = self.values[np.isfinite(self.values)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

    def __str__(self) -> str:
        """`height: -0.12 to 3.4, mean 0.81`."""
        finite = self.values[np.isfinite(self.values)]
        low, high = self.range
        unfit = self.values.size - finite.size
        mean = f", mean {finite.mean():.4g}" if finite.size else ""
        return f"{self.name}: {low:.4g} to {high:.4g}{mean}" + (
            f", {format_count(unfit, 'pixel')} not finite" if unfit else ""
        )


@frozen(eq=False)
class ClassProbabilities:
    """What one image is taken for: the probability of each class."""

    name: str
    probabilities: Array

    @property
    def best(self) -> list[tuple[int, float]]:
        """(class, probability) of the likeliest classes, the largest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:MAX_CLASSES]
        return [(int(index), float(self.probabilities[index])) for index in order]

    def __str__(self) -> str:
        """`head: class 2, 61.0 %`."""
        index, probability = self.best[0]
        return f"{self.name}: class {index}, {format_percent(probability)}"


@frozen(eq=False)
class Scalars:
    """What is measured of one image, or a vector that nothing has been made of yet."""

    name: str
    numbers: Array

    @property
    def first(self) -> list[tuple[int, float]]:
        """(index, number) of the first ones, in their order."""
        return list(enumerate(self.numbers[:MAX_SCALARS].tolist()))

    def __str__(self) -> str:
        """`head: 0.12, 3.4`."""
        more = len(self.numbers) - MAX_SCALARS
        told = ", ".join(f"{number:.4g}" for _, number in self.first)
        return f"{self.name}: {told}" + (f", and {more} more" if more > 0 else "")


Prediction = ClassMap | ValueMap | ClassProbabilities | Scalars


def decode_predictions(name: str, part: Part, output: Array) -> list[Prediction]:
    """What node `name` says in `output`, its tensor without the batch: (channels,) or (channels, height, width).

    A head's vector is scores, but for that of a ScalarHead, and a vector without a head, which are numbers. The maps
    of a head for regression are values; so is the one map of a part that gives no classes, and of a head of mmseg's
    with one class, which is how those do regression. Other maps are scores for classes; a single one is a score
    against class 0, and class 1 where it is above 0.
    """
    if output.ndim == 1:
        scores = part.includes_head and not isinstance(part, ScalarHead)
        return [ClassProbabilities(name, _compute_probabilities(output)) if scores else Scalars(name, output)]
    if isinstance(part, RegressionHead | ASPPRegressionHead) or (len(output) == 1 and _is_single_value(part)):
        names = [name] if len(output) == 1 else [f"{name}[{index}]" for index in range(len(output))]
        return [ValueMap(*pair) for pair in zip(names, output, strict=True)]
    if len(output) == 1:
        return [ClassMap(name, (output[0] > 0).astype(np.int64), 2)]
    return [ClassMap(name, output.argmax(axis=0), len(output))]


def _is_single_value(part: Part) -> bool:
    return not part.includes_head or isinstance(part, Mmseg)


def _compute_probabilities(scores: Array) -> Array:
    """Softmax; a single score is one against the rest."""
    numbers = scores.astype(np.float64)
    if len(numbers) == 1:
        numbers = np.array([0.0, numbers[0]])
    powers = np.exp(numbers - numbers.max())
    shares: Array = powers / powers.sum()
    return shares


def format_percent(share: float) -> str:
    """`61.0 %`; what would round to nothing or to all, and is not, is `<0.1 %` or `>99.9 %`."""
    return "<0.1 %" if 0 < share < 0.0005 else ">99.9 %" if 0.9995 <= share < 1 else f"{share * 100:.1f} %"
