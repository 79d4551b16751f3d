"""A module that stands in for another, under that one's own names."""

from __future__ import annotations

from typing import Any

from torch import nn


class ModuleProxy(nn.Module):
    """A module to derive from, whose parameters, buffers and children are those of `original`, by the same names."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # A tuple, which torch does not search for modules.
        self._original = (original,)
        self._parameters = original._parameters
        self._buffers = original._buffers
        self._modules = original._modules
        self._non_persistent_buffers_set = original._non_persistent_buffers_set

    @property
    def original(self) -> Any:
        """The module that this one stands in for."""
        return self._original[0]

    def train(self, mode: bool = True) -> ModuleProxy:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of the original itself too, which is no child of this module."""
        super().train(mode)
        self.original.training = mode
        return self
