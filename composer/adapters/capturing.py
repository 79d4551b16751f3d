"""Find out what a library loads into a network, without loading it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def record_loaded_state(network: nn.Module) -> Iterator[list[dict[str, Tensor]]]:
    """Within it, `network.load_state_dict` loads nothing, and its argument is put into the list."""
    found: list[dict[str, Tensor]] = []

    def store_state(_: nn.Module, state: dict[str, Tensor], *__: Any) -> None:
        found.append(dict(state))
        state.clear()
        state.update(network.state_dict())

    handle = network.register_load_state_dict_pre_hook(store_state)  # type: ignore[no-untyped-call]
    try:
        yield found
    finally:
        handle.remove()
