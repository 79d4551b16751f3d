"""Where the modules of a graph hang: under the names of their nodes, with torch's containers between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn


def get_module_path(name: str) -> tuple[str, ...]:
    """The attributes that lead to a node's module: `necks[0]` is `necks`, `0`."""
    return tuple(name.replace("[", ".").replace("]", "").split("."))


def attach_modules(root: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Give `root` the modules as children, at their names, with containers between."""
    tree: dict[str, Any] = {}
    for name, module in modules.items():
        *above, last = get_module_path(name)
        branch = tree
        for segment in above:
            branch = branch.setdefault(segment, {})
        branch[last] = module
    for name, child in _build_containers(tree):
        root.add_module(name, child)


def _build_containers(tree: Mapping[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in tree.items():
        yield name, child if isinstance(child, nn.Module) else _build_container(dict(_build_containers(child)))


def _build_container(children: Mapping[str, nn.Module]) -> nn.Module:
    if list(children) == [str(index) for index in range(len(children))]:
        return nn.ModuleList(children.values())
    return nn.ModuleDict(children)
