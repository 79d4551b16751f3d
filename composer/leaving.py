"""How features leave a model: seen to be what was promised, brought to the image's size, and cropped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from composer.entering import PadSpec, Sides
from composer.feature import format_count
from composer.modules.padding import crop
from composer.plan import OutputNode
from composer.typed import compute_kept_cells, explain_too_small


def prepare_outputs(
    ends: tuple[OutputNode, ...], tensors: Sequence[Tensor], frame: PadSpec, kept: Sides | None
) -> tuple[Tensor, ...]:
    """What leaves the model from one node, for each of its features. `kept` is the crop of what is rescaled.

    Raises RuntimeError where the tensors are not those that were promised: a contract and a module disagree.
    """
    if len(tensors) != len(ends):
        raise RuntimeError(
            f"{ends[0].node} promised {format_count(len(ends), 'feature')} and gave {len(tensors)}: "
            f"its contract and its module disagree"
        )
    return tuple(_prepare_output(end, x, frame, kept) for end, x in zip(ends, tensors, strict=True))


def compute_center_crop_box(frame: PadSpec, kept: Sides) -> tuple[int, int, int, int]:
    """Top, left, height and width of the middle of an image, in the padded one. Raises ValueError if it is larger."""
    height, width = frame.size
    if height < kept[0] or width < kept[1]:
        raise ValueError(explain_too_small(kept, height, width))
    top, left = map(_compute_center_start, frame.size, frame.padded, frame.before, kept)
    return top, left, *kept


def _prepare_output(end: OutputNode, x: Tensor, frame: PadSpec, kept: Sides | None) -> Tensor:
    _check_output_shape(end, x, frame)
    if end.whole:
        return x
    if end.rescale:
        if end.interpolate:
            x = F.interpolate(x, size=frame.padded, mode="bilinear")
        return crop(x, *((*frame.before, *frame.size) if kept is None else compute_center_crop_box(frame, kept)))
    rows, columns = (
        compute_kept_cells(end.feature, pixels, start, padded)
        for pixels, start, padded in zip(frame.size, frame.before, frame.padded, strict=True)
    )
    return crop(x, rows[0], columns[0], rows[1], columns[1])


def _check_output_shape(end: OutputNode, x: Tensor, frame: PadSpec) -> None:
    promised = end.shape(frame.padded)
    at = end.batch
    if promised is not None and (*x.shape[:at], *x.shape[at + 1 :]) != promised:
        shape = (*promised[:at], "b", *promised[at:])
        raise RuntimeError(
            f"{end.node} promised a feature of shape {shape} and gave {tuple(x.shape)}: "
            f"its contract and its module disagree"
        )


def _compute_center_start(side: int, padded: int, before: int, kept: int) -> int:
    """Where the middle `kept` pixels of a side begin, that lies from `before` on in the padded one.

    Where the padding is as even as it can be, the middle of the padded side is the same to within half a pixel, and
    is taken, because that is what cropping the padded output gives.
    """
    around = padded - side
    return (side + (around if before == around // 2 else 2 * before) - kept) // 2
