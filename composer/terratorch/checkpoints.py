"""Names of tensors in TerraTorch's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from composer.adapters.mmseg.parts import Mmseg
from composer.graph import Graph
from composer.modules.layers import get_module_path
from composer.parts import Part, TemporalPooling, Timm, UNetDecoder
from composer.terratorch.calls import normalize_branch

UNUSED_ATTENTION = "TerraTorch's U-Net has an attention here that it never runs"


_PEFT_PREFIX = "base_model.model."


def normalize_tensor_name(name: str) -> str:
    """Return a name with the branches of the graph for auxiliary heads, and without the wrapper of old versions."""
    parts = [part for part in name.split(".") if part != "_timm_module"]
    for at, part in enumerate(parts[1:], start=1):
        if parts[at - 1] == "aux_heads":
            parts[at] = normalize_branch(part)
    return ".".join(parts)


def list_tensor_names(graph: Graph, key: str) -> tuple[str, ...]:
    """Return the names that a model's tensor may have in a checkpoint of TerraTorch, the likeliest first.

    `key` is its name in the state dict of the model, which it keeps where TerraTorch has no place for it.
    """
    nodes = [node for node in graph.nodes if key.startswith(f"{_join_module_path(node.name)}.")]
    if not nodes:
        return (key,)
    node = max(nodes, key=lambda node: len(node.name))
    place = _find_terratorch_path(graph, node.name)
    within = key.removeprefix(f"{_join_module_path(node.name)}.")
    if isinstance(node.part, Mmseg):
        # In TerraTorch's wrapper.
        return (f"{place}.decoder.{within}", f"{place}.{within}")
    if node.name != "encoder":
        return (f"{place}.{within}",)
    return tuple(f"{place}.{name}" for name in _iter_encoder_names(node.part, within))


def find_ignore_reason(graph: Graph, name: str) -> str | None:
    """Return why a tensor of a checkpoint has no place in any model of composer; None where it should have one."""
    for node in graph.nodes:
        if isinstance(node.part, UNetDecoder) and node.part.attention_type is not None:
            # smp makes an attention for the last block too, which takes no finer map to attend to.
            last = len(node.part.channels) - 1
            if name.startswith(f"{_find_terratorch_path(graph, node.name)}.decoder.blocks.{last}.attention1."):
                return UNUSED_ATTENTION
    return None


def _join_module_path(node: str) -> str:
    return ".".join(get_module_path(node))


def _find_terratorch_path(graph: Graph, node: str) -> str:
    """Return the path of the module in TerraTorch's model that a node is."""
    kind, *rest = get_module_path(node)
    if kind == "necks" and len(rest) == 1:
        # TerraTorch pools frames inside the encoder, so that the neck that does so here does not count.
        before = [f"necks[{index}]" for index in range(int(rest[0]))]
        pooling = sum(isinstance(n.part, TemporalPooling) for n in graph.nodes if n.name in before)
        return f"neck.{int(rest[0]) - pooling}"
    if kind == "aux" and len(rest) == 2 and rest[1] in ("decoder", "head"):
        return f"aux_heads.{rest[0]}.{('decoder', 'head').index(rest[1])}"
    return _join_module_path(node)


def _iter_encoder_names(part: Part | object, within: str) -> Iterator[str]:
    """Yield the names of an encoder's tensor inside PEFT's wrapper, TerraTorch's wrapper for frames, and timm's."""
    peft = _PEFT_PREFIX if within.startswith(_PEFT_PREFIX) else ""
    plain = within.removeprefix(peft)
    names = [plain]
    if isinstance(part, Timm) and not part.features_only:
        # TerraTorch always takes one of timm's wrappers. One keeps the network as it is; another its children, with
        # the stages of a sequence as children of its own; a third keeps the network, and listens to its layers.
        names += [f"model.{plain}", plain.replace(".", "_", 1), f"body.{plain}"]
    for frames in ("", "encoder."):
        for name in names:
            yield f"{peft}{frames}{name}"
