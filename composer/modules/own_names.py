"""A foreign network that runs inside a module of ours, and keeps the names of its weights."""

from __future__ import annotations

from typing import Any, Self

from torch import nn

from composer.loaded import LoadedWeights


class TransparentWrapper(nn.Module):
    """A module that has the parameters, buffers and children of a network, and not that network inside it.

    So its state dict bears the names that published checkpoints use.
    """

    loaded_weights: LoadedWeights | None = None
    _network: tuple[Any]

    def __init__(self, network: Any) -> None:
        super().__init__()
        vars(self).update(get_shared_module_state(network))

    @property
    def network(self) -> Any:
        """The library's own module."""
        return self._network[0]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002, the signature is torch's
        """Set the mode of the network itself too, which is no child of this module."""
        super().train(mode)
        self.network.training = mode
        return self


def get_shared_module_state(network: Any) -> dict[str, Any]:
    """What an `OwnNames` of `network` holds of it."""
    return {
        # A tuple, which torch does not search for modules.
        "_network": (network,),
        "_parameters": network._parameters,
        "_buffers": network._buffers,
        "_modules": network._modules,
        "_non_persistent_buffers_set": network._non_persistent_buffers_set,
    }
