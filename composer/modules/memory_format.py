"""Memory formats of features: which one the backward pass is fast in."""

from __future__ import annotations

import torch
from torch import Tensor


def make_contiguous_for_training(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, contiguous where `like` is contiguous, gradients are on and both are on the CPU.

    oneDNN's backward pass of a convolution takes twice as long in channels-last memory. A user who chooses
    channels-last memory feeds it, and keeps it. A compiler chooses memory formats itself.
    """
    if torch.is_grad_enabled() and like.is_cpu and not torch.compiler.is_compiling() and like.is_contiguous():
        return x.contiguous()
    return x
