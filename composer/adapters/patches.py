"""The patches that a network cuts an image into."""

from __future__ import annotations

from torch import nn


def find_patch_size(network: nn.Module) -> tuple[int, int] | None:
    """Height and width of a patch in pixels, as the first of a network's modules says that has one; None elsewhere."""
    for child in network.modules():
        patch = getattr(child, "patch_size", None)
        if type(patch) is int:
            return patch, patch
        if isinstance(patch, list | tuple) and patch:
            # One number stands for both sides, and the first of three is of the frames.
            return int(patch[-2:][0]), int(patch[-1])
    return None
