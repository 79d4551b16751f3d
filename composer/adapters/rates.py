"""Making networks on the meta device that read their drop rates off a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class CPULinspace(TorchFunctionMode):
    """A context in which numbers at even distances have values, whatever the device: many networks have a rate for
    each block, and read it as a number.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """`func` of its arguments, on the CPU where it is `torch.linspace`."""
        return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})
