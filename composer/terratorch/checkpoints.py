"""Names of tensors in TerraTorch's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from composer.adapters.mmseg.parts import Mmseg
from composer.graph import Graph, Node
from composer.modules.layers import get_module_path
from composer.parts import Part, TemporalPooling, Timm, UNetDecoder
from composer.terratorch.calls import normalize_branch

UNUSED_ATTENTION = "TerraTorch's U-Net has an attention here that it never runs"


_PEFT_PREFIX = "base_model.model."


def normalize_tensor_name(name: str) -> str:
    """A name with each auxiliary head called as a graph calls its branch, and without what old versions put inside."""
    parts = [part for part in name.split(".") if part != "_timm_module"]
    for at, part in enumerate(parts[1:], start=1):
        if parts[at - 1] == "aux_heads":
            parts[at] = normalize_branch(part)
    return ".".join(parts)


def list_tensor_names(graph: Graph, key: str) -> tuple[str, ...]:
    """The names that a model's tensor may have in a checkpoint of TerraTorch, the likeliest first.

    `key` is its name in the state dict of the model. What stands at no place that TerraTorch has, has its own name.
    """
    node = _find_node(graph, key)
    if node is None:
        return (key,)
    place = _find_terratorch_path(graph, node.name)
    within = key.removeprefix(f"{_join_module_path(node.name)}.")
    if isinstance(node.part, Mmseg):
        # In TerraTorch's wrapper.
        return (f"{place}.decoder.{within}", f"{place}.{within}")
    if node.name != "encoder":
        return (f"{place}.{within}",)
    return tuple(f"{place}.{name}" for name in _iter_encoder_names(node.part, within))


def find_ignore_reason(graph: Graph, name: str) -> str | None:
    """Why a tensor of a checkpoint has no place in any model of composer's; None where it ought to have one."""
    return UNUSED_ATTENTION if name.startswith(tuple(_iter_unused_prefixes(graph))) else None


def _join_module_path(node: str) -> str:
    return ".".join(get_module_path(node))


def _find_node(graph: Graph, key: str) -> Node | None:
    around = [node for node in graph.nodes if key.startswith(f"{_join_module_path(node.name)}.")]
    return max(around, key=lambda node: len(node.name), default=None)


def _find_terratorch_path(graph: Graph, node: str) -> str:
    """Where TerraTorch has the module of a node."""
    kind, *rest = get_module_path(node)
    if kind == "necks" and len(rest) == 1:
        # TerraTorch pools frames inside the encoder, so that its necks are counted without the one that does so here.
        before = [f"necks[{index}]" for index in range(int(rest[0]))]
        pooling = sum(isinstance(n.part, TemporalPooling) for n in graph.nodes if n.name in before)
        return f"neck.{int(rest[0]) - pooling}"
    if kind == "aux" and len(rest) == 2 and rest[1] in _BRANCH_INDEX:
        return f"aux_heads.{rest[0]}.{_BRANCH_INDEX[rest[1]]}"
    return _join_module_path(node)


_BRANCH_INDEX = {"decoder": 0, "head": 1}


def _iter_encoder_names(part: Part | object, within: str) -> Iterator[str]:
    """What stands before and within: PEFT's wrapper, and inside it the one with which TerraTorch takes frames."""
    peft = _PEFT_PREFIX if within.startswith(_PEFT_PREFIX) else ""
    plain = within.removeprefix(peft)
    spellings = (plain, *_list_timm_names(plain)) if isinstance(part, Timm) and not part.features_only else (plain,)
    for frames in ("", "encoder."):
        for spelling in spellings:
            yield f"{peft}{frames}{spelling}"


def _list_timm_names(plain: str) -> tuple[str, ...]:
    """The names in timm's wrappers of what a plain network calls `plain`: TerraTorch always takes a wrapper."""
    # One keeps the network as it is; another the children, with the stages of a sequence as children of its own; a
    # third keeps the network too, and listens to its layers.
    return f"model.{plain}", plain.replace(".", "_", 1), f"body.{plain}"


def _iter_unused_prefixes(graph: Graph) -> Iterator[str]:
    """What begins the names of attention that smp makes for the last block, which takes no finer map to attend to."""
    for node in graph.nodes:
        if isinstance(node.part, UNetDecoder) and node.part.attention_type is not None:
            yield f"{_find_terratorch_path(graph, node.name)}.decoder.blocks.{len(node.part.channels) - 1}.attention1."
