"""Where the modules of a graph hang: under the names of their nodes, with torch's containers between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def segments(name: str) -> tuple[str, ...]:
    """The attributes that lead to a node's module: `necks[0]` is `necks`, `0`."""
    return tuple(name.replace("[", ".").replace("]", "").split("."))


def hang(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Give `root` the modules as children, at their names, with containers between."""
    tree: dict[str, Any] = {}
    for name, module in modules.items():
        *above, last = segments(name)
        branch = tree
        for segment in above:
            branch = branch.setdefault(segment, {})
        branch[last] = module
    for name, child in _containers(tree):
        root.add_module(name, child)


def _containers(tree: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in tree.items():
        yield name, child if isinstance(child, nn.Module) else _container(dict(_containers(child)))


def _container(children: Mapping[str, nn.Module]) -> nn.Module:
    if list(children) == [str(index) for index in range(len(children))]:
        return nn.ModuleList(children.values())
    return nn.ModuleDict(children)
