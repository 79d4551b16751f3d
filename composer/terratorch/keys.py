"""What TerraTorch calls the tensors of a model, worked out from the model's graph."""

from __future__ import annotations

from collections.abc import Iterator

from composer.graph import Graph, Node
from composer.modules.containers import segments
from composer.parts import Mmseg, Part, TemporalPooling, Timm, UNetDecoder
from composer.terratorch.auxiliary import lawful

UNUSED = "TerraTorch's U-Net has an attention here that it never runs"

_PEFT = "base_model.model."


def plain(name: str) -> str:
    """A name with each auxiliary head called as a graph calls its branch, and without what old versions put inside."""
    parts = [part for part in name.split(".") if part != "_timm_module"]
    for at, part in enumerate(parts[1:], start=1):
        if parts[at - 1] == "aux_heads":
            parts[at] = lawful(part)
    return ".".join(parts)


def names_of(graph: Graph, key: str) -> tuple[str, ...]:
    """The names that a model's tensor may have in a checkpoint of TerraTorch, the likeliest first.

    `key` is its name in the state dict of the model. What stands at no place that TerraTorch has, has its own name.
    """
    node = _node_of(graph, key)
    if node is None:
        return (key,)
    place = _place(graph, node.name)
    within = key.removeprefix(f"{_path(node.name)}.")
    if isinstance(node.part, Mmseg):
        # In TerraTorch's wrapper.
        return (f"{place}.decoder.{within}", f"{place}.{within}")
    if node.name != "encoder":
        return (f"{place}.{within}",)
    return tuple(f"{place}.{name}" for name in _of_encoder(node.part, within))


def reason_to_leave(graph: Graph, name: str) -> str | None:
    """Why a tensor of a checkpoint has no place in any model of composer's; None where it ought to have one."""
    return UNUSED if name.startswith(tuple(_unused(graph))) else None


def _path(node: str) -> str:
    return ".".join(segments(node))


def _node_of(graph: Graph, key: str) -> Node | None:
    around = [node for node in graph.nodes if key.startswith(f"{_path(node.name)}.")]
    return max(around, key=lambda node: len(node.name), default=None)


def _place(graph: Graph, node: str) -> str:
    """Where TerraTorch has the module of a node."""
    kind, *rest = segments(node)
    if kind == "necks" and len(rest) == 1:
        # TerraTorch pools frames inside the encoder, so that its necks are counted without the one that does so here.
        before = [f"necks[{index}]" for index in range(int(rest[0]))]
        pooling = sum(isinstance(n.part, TemporalPooling) for n in graph.nodes if n.name in before)
        return f"neck.{int(rest[0]) - pooling}"
    if kind == "aux" and len(rest) == 2 and rest[1] in _BRANCH:
        return f"aux_heads.{rest[0]}.{_BRANCH[rest[1]]}"
    return _path(node)


_BRANCH = {"decoder": 0, "head": 1}


def _of_encoder(part: Part | object, within: str) -> Iterator[str]:
    """What stands before and within: PEFT's wrapper, and inside it the one with which TerraTorch takes frames."""
    peft = _PEFT if within.startswith(_PEFT) else ""
    plain = within.removeprefix(peft)
    spellings = (plain, *_of_timm(plain)) if isinstance(part, Timm) and not part.features_only else (plain,)
    for frames in ("", "encoder."):
        for spelling in spellings:
            yield f"{peft}{frames}{spelling}"


def _of_timm(plain: str) -> tuple[str, ...]:
    """The names in timm's wrappers of what a plain network calls `plain`: TerraTorch always takes a wrapper."""
    # One keeps the network as it is; another the children, with the stages of a sequence as children of its own; a
    # third keeps the network too, and listens to its layers.
    return f"model.{plain}", plain.replace(".", "_", 1), f"body.{plain}"


def _unused(graph: Graph) -> Iterator[str]:
    """What begins the names of attention that smp makes for the last block, which takes no finer map to attend to."""
    for node in graph.nodes:
        if isinstance(node.part, UNetDecoder) and node.part.attention_type is not None:
            yield f"{_place(graph, node.name)}.decoder.blocks.{len(node.part.channels) - 1}.attention1."
