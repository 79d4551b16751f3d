"""The device that new tensors are made on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def get_default_device() -> str:
    """The device that new tensors are made on now."""
    return str(torch.get_default_device())


def use_default_device(device: str) -> AbstractContextManager[Any]:
    """Within it, what names no device is made on `device`.

    torch's own context looks at every call of torch from Python, which takes a tenth of the time in which a small
    network is made. It is entered only where it changes something.
    """
    wanted = torch.device(device)
    return nullcontext() if torch.get_default_device() == wanted else wanted
