"""Activations by name."""

from __future__ import annotations

from torch import nn

from composer.parts.fields import FINAL_ACTIVATIONS

_ACTIVATION_CLASSES: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in FINAL_ACTIVATIONS}


def build_activation(name: str) -> nn.Module:
    """The module that a part names: torch's own class of that name. Softmax is over the channels, axis 1.

    Raises KeyError for a name that is not on the parts' closed list.
    """
    return nn.Softmax(dim=1) if name == "Softmax" else _ACTIVATION_CLASSES[name]()
