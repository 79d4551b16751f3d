"""Live decoders in a call of the factory: a part that holds a module, and what that gives, found by running it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from composer.contracts import ContractResult, Outputs, Rejection, contract
from composer.contracts.rules import compute_exact_multiple
from composer.feature import MAP, VECTOR, Feature, Features
from composer.modules import module
from composer.modules.custom import use_eval_mode
from composer.modules.generators import SeededGenerator
from composer.modules.sharing import ModuleProxy
from composer.parts import Decoder
from composer.sizes import round_up
from composer.terratorch.arguments import Diagnostics

PROBE_SIZES = ((4, 4), (4, 6))
"""The sizes at which a decoder is tried, in the coarsest grid's cells: a square, and one that is not."""


@frozen(eq=False)
class ModuleDecoder(Decoder):
    """A module as a decoder: called with a list of tensors, it returns one map or one vector. It has no text."""

    module: nn.Module
    includes_head: bool = field(default=False, kw_only=True)


def build_module_decoder(decoder: Any, path: str, ledger: Diagnostics) -> ModuleDecoder | None:
    """The part for a module that is handed in. `includes_head` is the module's own word, which TerraTorch overlooks."""
    if not isinstance(decoder, nn.Module):
        ledger.add_problem(path, f"a decoder is the name of one, or a module (got {decoder!r}).", code="type")
        return None
    if getattr(decoder, "includes_head", False):
        ledger.add_note(
            path, "TerraTorch puts a head of its own behind this decoder, although it says that it includes one."
        )
    return ModuleDecoder(decoder, includes_head=bool(getattr(decoder, "includes_head", False)))


@contract.register(ModuleDecoder)
def _(decoder: ModuleDecoder, features: Features) -> ContractResult:
    multiple = compute_exact_multiple(*features).multiple
    borders = round_up(1, multiple, compute_exact_multiple(*features).least) - multiple
    tried = []
    for rows, columns in PROBE_SIZES:
        size = (rows * multiple + borders, columns * multiple + borders)
        try:
            tried.append((size, _compute_output_shape(decoder.module, features, *size)))
        except Exception as error:  # whatever a module raises for features that it does not take
            said = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            return _make_rejection(f"takes these features, run over an image of {size[0]} × {size[1]}", said)
    given = _infer_feature(*tried)
    if given is None:
        return _make_rejection("gives one map or one vector, of a stride that is the same at all sizes", str(tried))
    on_a_grid = _match_input_grid(decoder.module, features, given, multiple)
    return (
        Outputs(features=[on_a_grid])
        if on_a_grid
        else Outputs(features=[given], sizes=compute_exact_multiple(*features))
    )


def _match_input_grid(network: nn.Module, features: Features, given: Feature, multiple: int) -> Feature | None:
    """What a decoder gives where it leaves its map on the grid of one that it takes, however that rounds; else None.

    TerraTorch does not pad for a network without patches, so that at most sizes its grids round.
    """
    grids = [f for f in features if f.axes == MAP and f.stride == given.stride and f.rounding != "exact"]
    if given.axes == VECTOR and any(f.rounding != "exact" for f in features):
        grids = [given]
    for grid in grids:
        found = evolve(grid, channels=given.channels)
        with suppress(Exception):  # whatever a module raises for grids that do not divide each other
            sizes = [
                (side, side + 2 * multiple + 1) for side in range(3 * multiple, 4 * multiple, max(multiple // 7, 1))
            ]
            if all(_compute_output_shape(network, features, *size) == found.shape(2, *size) for size in sizes):
                return found
    return None


def _compute_output_shape(network: nn.Module, features: Features, height: int, width: int) -> tuple[int, ...]:
    parameter = next(network.parameters(), torch.empty(0))
    zeros = [torch.zeros(f.shape(2, height, width), dtype=parameter.dtype, device=parameter.device) for f in features]
    with torch.no_grad(), SeededGenerator(), use_eval_mode(network):
        out = network(zeros)
    return tuple(out.shape)


ProbedShape = tuple[tuple[int, int], tuple[int, ...]]
"""The size of an image, and the shape of what a decoder gives for it."""


def _infer_feature(one: ProbedShape, other: ProbedShape) -> Feature | None:
    """What a decoder gives, by two images of one height: a wider image has more columns, and as many rows."""
    (size, shape), (wider, shape_of_wider) = one, other
    if len(shape) == 2 and shape == shape_of_wider:
        return Feature(channels=shape[1], stride=None, axes=VECTOR)
    if len(shape) != 4 or shape[:3] != shape_of_wider[:3] or shape[3] >= shape_of_wider[3]:
        return None
    stride = Fraction(wider[1] - size[1], shape_of_wider[3] - shape[3])
    offsets = {side - cells * stride for side, cells in zip(size, shape[2:], strict=True)}
    offset = offsets.pop()
    whole_strides = (offset / stride).denominator == 1
    return Feature(channels=shape[1], stride=stride, offset=offset) if whole_strides and not offsets else None


def _make_rejection(expected: str, got: str) -> Rejection:
    return Rejection(
        code="module",
        kind="raises",
        expected=expected,
        got=got,
        repair="declare a decoder of your own, and register its contract and module",
    )


class ListInputWrapper(ModuleProxy):
    """A module that is called with a list of tensors of its own, which it may change."""

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Give the one tensor that the module gives."""
        out: Any = self.original([x.clone() for x in features])
        return (out,)


@module.register(ModuleDecoder)
def _(decoder: ModuleDecoder, _: Features) -> nn.Module:
    return ListInputWrapper(decoder.module)
