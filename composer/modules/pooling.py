"""Average pooling to a given number of cells. B batch, C channels, H and W cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptiveAveragePool(nn.AdaptiveAvgPool2d):
    """torch's AdaptiveAvgPool2d, in a form that an export with dynamic sizes can run at every size.

    The exporters unroll torch's own at the size of the example. Two products with 0/1 windows give the same up to
    rounding. They are written as sums because matmul asks whether a symbolic side is 1, which export rejects.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Give `(b, c, n, n)`, the averages over a grid of n × n overlapping windows."""
        height, width = x_BCHW.shape[-2:]
        if (type(height) is int and type(width) is int) or not torch.compiler.is_exporting():
            averaged: Tensor = super().forward(x_BCHW)
            return averaged
        cells = int(self.output_size)  # type: ignore[arg-type]
        rows, columns = (_compute_window_weights(cells, side, x_BCHW) for side in (height, width))
        x_BCNW = (x_BCHW.unsqueeze(-3) * rows.unsqueeze(-1)).sum(-2)
        return (x_BCNW.unsqueeze(-2) * columns).sum(-1)


def _compute_window_weights(cells: int, side: int, like: Tensor) -> Tensor:
    """The weights `(cells, side)` of a side in each average: cell i covers floor(i·side/n) to ceil((i+1)·side/n)."""
    index = torch.arange(cells, device=like.device)[:, None]
    start = index * side // cells
    end = ((index + 1) * side + cells - 1) // cells
    position = torch.arange(side, device=like.device)
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
