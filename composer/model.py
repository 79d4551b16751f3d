"""Model: a typed graph as a torch module. It pads the image, runs the nodes, rescales and crops what leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from composer.feature import counted
from composer.graph import Graph
from composer.modules.containers import hang
from composer.modules.frames import by_frame, stills
from composer.modules.padding import crop, pad_axis
from composer.plan import End, Input, Step, end_of, input_of, step_of
from composer.sizes import round_up
from composer.typed import Typed, kept_cells, too_large, too_small


class ModelOutput(NamedTuple):
    """What a model returns: `output`, a tensor, or a dict by node name where the graph has several outputs; and
    `auxiliary_heads`, a dict by label. An embedding is a tuple of tensors. A pytree, so that torch.export takes it.
    """

    output: Any
    auxiliary_heads: dict[str, Any]


class Model(nn.Module):
    """A built graph: a plain module, whose children are the nodes under their own names.

    Takes one tensor for a graph of one input, `(b, c, h, w)` or with frames `(b, c, t, h, w)`, or a dict by input
    name. Returns a `ModelOutput`. Images of any size are padded to one that the graph takes, and pixel-wise output
    comes back at the image's size (with `rescale`), or as the cells that belong to the image (without). Embeddings
    cover the padded image.
    """

    def __init__(self, typed: Typed, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.typed = typed
        hang(self, modules)
        self._frozen: frozenset[str] = frozenset()
        self._inputs = tuple(input_of(name, image.feature) for name, image in self.graph.inputs)
        self._steps = tuple(step_of(node, typed, modules) for node in typed.order)
        self._ends = {name: tuple(end_of(typed, name, f) for f in typed.features[name]) for name in typed.ends}
        self._unit = typed.unit

    @property
    def graph(self) -> Graph:
        """What this model was built from."""
        return self.typed.graph

    def forward(self, image: Tensor | Mapping[str, Tensor], **extras: Any) -> ModelOutput:
        """Run the graph. `extras` (times, places) go to the encoders of one's own that have such keyword arguments.

        Raises ValueError for images that it does not take, naming what would do, and TypeError for an extra that no
        encoder takes.
        """
        self._check_extras(extras)
        images = self._images(image)
        first = self._inputs[0]
        sides = [images[first.name].shape[axis] * first.numerator // first.denominator for axis in (-2, -1)]
        height, width = sides
        self._check_sizes(images, height, width)
        padded = self._padded(height, width)
        top, left = (
            self.graph.padding.before(target - side, self._unit) for target, side in zip(padded, sides, strict=True)
        )
        features: dict[str, Sequence[Tensor]] = {
            one.name: (self._pad(one, images[one.name], (top, left), padded),) for one in self._inputs
        }
        for step in self._steps:
            features[step.name] = self._run(step, features, padded, extras)
        ends = {name: self._leaving(name, features[name], (height, width), padded, (top, left)) for name in self._ends}
        outputs = {name: ends[name] for name in self.graph.outputs}
        return ModelOutput(
            output=outputs if len(outputs) > 1 else ends[self.graph.outputs[0]],
            auxiliary_heads={label: ends[name] for label, name in self.graph.auxiliary},
        )

    def freeze(self, node: str) -> None:
        """Stop the gradients of a node and the drift of its statistics: `train()` of the model leaves it in eval mode.

        `node` is a node's name, or what several begin with: `necks`, `aux.early`. Raises ValueError for another.
        """
        paths = {step.path for step in self._steps if _is_within(step.name, node)}
        if not paths:
            names = ", ".join(step.name for step in self._steps)
            raise ValueError(f"there is no node {node!r} to freeze; the nodes are {names}")
        for path in paths:
            self.get_submodule(".".join(path)).requires_grad_(False)  # noqa: FBT003, torch's signature
        self._frozen |= {".".join(path) for path in paths}
        self.train(self.training)

    def train(self, mode: bool = True) -> Model:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of every node but the frozen ones, which stay in eval mode."""
        super().train(mode)
        for path in self._frozen:
            self.get_submodule(path).eval()
        return self

    def _images(self, image: Tensor | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        names = [one.name for one in self._inputs]
        images = {names[0]: image} if isinstance(image, Tensor) and len(names) == 1 else image
        if not isinstance(images, Mapping) or set(images) != set(names):
            wanted = "one tensor, or a dict with one named" if len(names) == 1 else "a dict of images named"
            raise ValueError(f"the model takes {wanted} {', '.join(names)} (got {_given(image)})")
        for one in self._inputs:
            x = images[one.name]
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            if not isinstance(x, Tensor) or x.dim() != one.dims or not _has_sizes(x, one) or 0 in x.shape[-2:]:
                raise ValueError(f"{one.name} must be of shape {one.shape} (got {shape})")
        return images

    def _check_sizes(self, images: Mapping[str, Tensor], height: int, width: int) -> None:
        for one in self._inputs:
            shape = images[one.name].shape
            if one.numerator > 1 and one.denominator > 1 and any(side % one.denominator for side in shape[-2:]):
                raise ValueError(
                    f"{one.name} has stride {one.numerator}/{one.denominator}, so its sides must be multiples of "
                    f"{one.denominator} (got {shape[-2]} × {shape[-1]})"
                )
            reference = [side * one.numerator for side in shape[-2:]]
            if reference != [height * one.denominator, width * one.denominator]:
                raise ValueError(
                    f"{one.name} must have {height * one.denominator / one.numerator:g} × "
                    f"{width * one.denominator / one.numerator:g} pixels, to cover what {self._inputs[0].name} "
                    f"covers (got {shape[-2]} × {shape[-1]})"
                )

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        sizes = self.typed.sizes
        if type(height) is int and type(width) is int:
            padded = sizes.nearest(height, width)
            if padded is None:
                raise ValueError(too_large(sizes, height, width))
            return padded
        # Symbols: no branch may be taken on them, so the larger of two is left to torch.
        if sizes.square:
            height = width = _larger(height, width)
        multiple, least = sizes.multiple, sizes.least
        return (
            sizes.height or round_up(height, multiple, least, _larger),
            sizes.width or round_up(width, multiple, least, _larger),
        )

    def _pad(self, one: Input, image: Tensor, before: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        for axis, start, target in zip((-2, -1), before, padded, strict=True):
            cells = [pixels * one.denominator // one.numerator for pixels in (start, target)]
            image = pad_axis(image, axis, cells[0], cells[1], self.graph.padding.mode)
        return image

    def _check_extras(self, extras: Mapping[str, Any]) -> None:
        for name in extras:
            if not any(step.extras is None or name in step.extras for step in self._steps):
                raise TypeError(f"no encoder of the model takes {name!r}")

    def _run(
        self, step: Step, features: Mapping[str, Sequence[Tensor]], padded: tuple[int, int], extras: Mapping[str, Any]
    ) -> Sequence[Tensor]:
        child: Any = self
        for name in step.path:
            child = getattr(child, name)
        extra = {"image_size": padded} if step.takes_size else {}
        if step.takes_image:
            image = features[step.inputs[0]][0]
            image = image if step.frames is None else stills(image)
            # A module of one's own may begin in place, on what is perhaps the caller's own tensor.
            taken = {name: value for name, value in extras.items() if step.extras is None or name in step.extras}
            out = child(image.clone() if step.foreign else image, **taken)
        else:
            named = {name: features[source] for name, source in step.named}
            out = child(*[features[source] for source in step.inputs], **named, **extra)
        given = (out,) if isinstance(out, Tensor) else tuple(out)
        if step.frames is None:
            return given
        return tuple(by_frame(x, axis, step.frames) for x, axis in zip(given, step.batch, strict=True))

    def _kept(
        self, size: tuple[int, int], padded: tuple[int, int], before: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """What of the padded output leaves the model: top, left, height and width."""
        kept = self.graph.crop
        if kept is None:
            return *before, *size
        if size[0] < kept[0] or size[1] < kept[1]:
            raise ValueError(too_small(kept, *size))
        top, left = map(centred, size, padded, before, kept)
        return top, left, *kept

    def _leaving(
        self,
        name: str,
        tensors: Sequence[Tensor],
        size: tuple[int, int],
        padded: tuple[int, int],
        before: tuple[int, int],
    ) -> Tensor | tuple[Tensor, ...]:
        """What leaves the model from a node: a tensor, or for an embedding a tuple of them."""
        ends = self._ends[name]
        if len(tensors) != len(ends):
            raise RuntimeError(
                f"{name} promised {counted(len(ends), 'feature')} and gave {len(tensors)}: "
                f"its contract and its module disagree"
            )
        finished = tuple(self._finish(end, x, size, padded, before) for end, x in zip(ends, tensors, strict=True))
        return finished if name in self.typed.embeddings else finished[0]

    def _finish(
        self, end: End, x: Tensor, size: tuple[int, int], padded: tuple[int, int], before: tuple[int, int]
    ) -> Tensor:
        promised = end.shape(padded)
        at = end.batch
        if promised is not None and (*x.shape[:at], *x.shape[at + 1 :]) != promised:
            shape = (*promised[:at], "b", *promised[at:])
            raise RuntimeError(
                f"{end.node} promised a feature of shape {shape} and gave {tuple(x.shape)}: "
                f"its contract and its module disagree"
            )
        if end.whole:
            return x
        if end.rescale:
            if end.interpolate:
                x = F.interpolate(x, size=padded, mode="bilinear")
            return crop(x, *self._kept(size, padded, before))
        rows, columns = (kept_cells(end.feature, pixels, start) for pixels, start in zip(size, before, strict=True))
        return crop(x, rows[0], columns[0], rows[1], columns[1])


def centred(side: int, padded: int, before: int, kept: int) -> int:
    """Where the middle `kept` pixels of a side begin, that lies from `before` on in the padded one.

    Where the padding is as even as it can be, the middle of the padded side is the same to within half a pixel, and
    is taken, because that is what cropping the padded output gives.
    """
    around = padded - side
    return (side + (around if before == around // 2 else 2 * before) - kept) // 2


def _has_sizes(x: Tensor, one: Input) -> bool:
    return all(x.shape[axis] == size for axis, size in one.fixed)


def _given(image: object) -> str:
    if isinstance(image, Mapping):
        return f"a dict of {', '.join(map(repr, image)) or 'nothing'}"
    return "one tensor" if isinstance(image, Tensor) else type(image).__name__


def _larger(one: int, other: int) -> int:
    """The larger of two symbols, without asking which it is unless their bounds do not tell."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return one if statically_known_true(one >= other) else cast(int, torch.sym_max(one, other))


def _is_within(name: str, node: str) -> bool:
    return name == node or name.startswith((f"{node}.", f"{node}["))
