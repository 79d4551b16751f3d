"""Graphs: named nodes, inputs, outputs, and the chain that most models are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import Attribute, field, frozen

from composer.errors import Source
from composer.layouts import Image, parse_height_and_width
from composer.parts import PARTS, Decoder, Encoder, Head, Neck
from composer.parts.base import Part
from composer.parts.validators import BOOL
from composer.sizes import Padding

_MODULE = "torch.nn.modules.module"


def explain_mistake(value: Any) -> str | None:
    """Return what a name, a class or an nn.Module is that stands in place of a part, and how to make a part of it."""
    if isinstance(value, str):
        return f"{value!r} is a name, not a part; use {_format_constructor(value)}"
    if isinstance(value, type) and issubclass(value, Part):
        return f"{value.__name__} is a class, not a part; use composer.{value.__name__}(…)"
    if any(base.__module__ == _MODULE for base in type(value).__mro__):
        return (
            f"{type(value).__name__} is an nn.Module, not a part; wrap an encoder in composer.Custom(module, "
            "features=[composer.Feature(channels=…, stride=…)]); register any other part with @composer.module.register"
        )
    return None


def _format_constructor(name: str) -> str:
    """Return how Python writes the part of a name; a name without a source is taken for a network of timm."""
    source, slash, rest = name.partition("/")
    cls = (PARTS.get(f"{source}/") if slash else None) or PARTS.get(name)
    if cls is None:
        return "a part, such as composer.Timm('resnet18')" if slash else f"composer.Timm({name!r})"
    return f"composer.{cls.__name__}({rest!r})" if slash else f"composer.{cls.__name__}(…)"


_ATTRIBUTES = """
add_module append apply bfloat16 buffers built_state call_super_init children clear compile cpu cuda double
dump_patches eval extend extra_repr float forward freeze frozen get_buffer get_extra_state get_parameter
get_submodule graph half input_names insert ipu items keys load_state_dict loaded_weights modules mtia
named_buffers named_children named_modules named_parameters output_names parameters pop
register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
register_state_dict_pre_hook requires_grad_ set_extra_state set_submodule share_memory state_dict
T_destination to to_empty train training type typed unfreeze update values xpu zero_grad
"""
RESERVED_NAMES = frozenset(_ATTRIBUTES.split())
"""Names that torch's modules and containers, or the built model, have themselves, so no node may have them."""

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""A segment of a node's name."""

PATH_PATTERN = re.compile(
    rf"{NAME_PATTERN.pattern}(?:\[(?:0|[1-9][0-9]{{0,3}})\])?(?:\.{NAME_PATTERN.pattern}(?:\[(?:0|[1-9][0-9]{{0,3}})\])?)*"
)
"""A node's name: segments with dots, each perhaps with an index: `encoder`, `necks[0]`, `aux.early.decoder`."""

MAX_NAME_LENGTH = 256
"""The maximum length of a node's name."""

MAX_ENCODERS = 32
"""The maximum number of encoders in a graph: probing one may take a second."""


@frozen
class Shared:
    """In place of a part: run the module of `node` again, with the same weights."""

    node: str


InputNames = tuple[str, ...] | tuple[tuple[str, str], ...]


def _check_part(_: object, __: Attribute[Any], value: object) -> None:
    if not isinstance(value, Part | Shared):
        expected = f"part must be a declaration, such as FCNDecoder(), or Shared (got {value!r})"
        raise ValueError(explain_mistake(value) or expected)


def _check_name(_: object, attribute: Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{attribute.name} must be a string (got {value!r})")


def _parse_inputs(value: str | list[str] | tuple[str, ...] | Mapping[str, str] | InputNames) -> InputNames:
    if isinstance(value, str):
        return (value,)
    pairs: Any = value.items() if isinstance(value, Mapping) else value
    found = tuple(pairs) if isinstance(pairs, Iterable) else (pairs,)
    for source in found:
        if not isinstance(source, str) and not _is_pair(source, str):
            raise ValueError(f"inputs are names, or names with the node that each is taken from (got {source!r})")
    return found


def _is_pair(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], kind)


@frozen
class Node:
    """A part at a place in the graph. `inputs` names what it takes: one name, several by position, or a mapping."""

    name: str = field(validator=_check_name)
    part: Part | Shared = field(validator=_check_part)
    inputs: InputNames = field(converter=_parse_inputs)

    @property
    def positional(self) -> tuple[str, ...]:
        """The sources of the inputs without a name."""
        return tuple([source for source in self.inputs if isinstance(source, str)])

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """(name, source) of the inputs that are given by name."""
        return tuple([pair for pair in self.inputs if not isinstance(pair, str)])

    @property
    def sources(self) -> tuple[str, ...]:
        """All sources, in order."""
        named = self.named
        return (*self.positional, *[source for _, source in named]) if named else self.positional


def _to_pairs(value: Mapping[str, Any] | tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    return tuple(value.items()) if isinstance(value, Mapping) else tuple(value)


@frozen
class _PairsOf:
    """Pairs of a name and something of this kind."""

    kind: type

    def __call__(self, _: object, attribute: Attribute[Any], pairs: tuple[Any, ...]) -> None:
        for pair in pairs:
            if not _is_pair(pair, self.kind):
                named = "names of nodes" if self.kind is str else f"{self.kind.__name__}s"
                raise ValueError(f"{attribute.name} must map names to {named} (got {pair!r})")


def _check_nodes(_: object, __: Attribute[Any], nodes: tuple[Any, ...]) -> None:
    for node in nodes:
        if not isinstance(node, Node):
            raise ValueError(f"nodes must be Nodes (got {node!r})")


def _parse_output_names(value: Iterable[str]) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if isinstance(value, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"outputs must be a list of names (got {value!r})")
    return names


def _parse_crop(value: object) -> tuple[int, int] | None:
    return parse_height_and_width("crop", value)


@frozen(kw_only=True)
class Graph:
    """A model, as data.

    `inputs` maps names to images, `nodes` may stand in any order, `outputs` names the nodes whose features leave the
    model, `auxiliary` maps names to nodes whose output is wanted beside them. With `rescale`, pixel-wise output is
    brought to the image's size, and `crop`, (height, width), keeps the centre of it: so many reference pixels.
    `padding` says how an image is brought to a size that the graph takes. `source` says where the graph was read, and
    is ignored when graphs are compared.
    """

    inputs: tuple[tuple[str, Image], ...] = field(converter=_to_pairs, validator=_PairsOf(Image))
    nodes: tuple[Node, ...] = field(converter=tuple[Node, ...], validator=_check_nodes)
    outputs: tuple[str, ...] = field(converter=_parse_output_names)
    auxiliary: tuple[tuple[str, str], ...] = field(default=(), converter=_to_pairs, validator=_PairsOf(str))
    rescale: bool = field(default=True, validator=BOOL)
    crop: tuple[int, int] | None = field(default=None, converter=_parse_crop)
    padding: Padding = field(factory=Padding)
    source: Source = field(factory=Source, eq=False, repr=False)


def check_is_graph(value: object) -> None:
    """Raise TypeError, with the next step, for a value that is not a graph."""
    if not isinstance(value, Graph):
        raise TypeError(f"a graph is needed, as composer.read and composer.chain make it (got {type(value).__name__})")


def chain(
    *parts: Part,
    aux: Mapping[str, Sequence[Part]] | None = None,
    input: Image | None = None,
    rescale: bool = True,
    crop: tuple[int, int] | None = None,
    padding: Padding | None = None,
) -> Graph:
    """An encoder, necks, a decoder and a head, one after the other, as a graph.

    Each of `aux` is a decoder, or a decoder and a head, that takes what the decoder takes. Nodes are named as in a
    file: `encoder`, `necks[0]`, `decoder`, `head`, `aux.NAME.decoder`, `aux.NAME.head`. Raises ValueError where
    the parts do not follow each other in that order, and where a branch is anything else.
    """
    names = _list_chain_names(parts)
    nodes = [Node(name, part, source) for name, part, source in zip(names, parts, ("image", *names[:-1]), strict=True)]
    trunk = next((name for name in reversed(names) if name not in ("decoder", "head")), "image")
    ends: dict[str, str] = {}
    for label, branch in (aux or {}).items():
        source = trunk
        for part in _check_branch(label, branch):
            nodes.append(Node(f"aux.{label}.{'head' if isinstance(part, Head) else 'decoder'}", part, source))
            source = nodes[-1].name
        ends[label] = source
    return Graph(
        inputs={"image": input or Image()},
        nodes=nodes,
        outputs=(names[-1],),
        auxiliary=ends,
        rescale=rescale,
        crop=crop,
        padding=padding or Padding(),
    )


_CHAIN_KINDS = (Encoder, Neck, Decoder, Head)


def _list_chain_names(parts: tuple[Part, ...]) -> list[str]:
    """Return the node names of a chain. Raises ValueError where the parts are not in a chain's order."""
    for part in parts:
        if not isinstance(part, _CHAIN_KINDS):
            unknown = f"{type(part).__name__} is of no known kind: derive it from Encoder, Neck, Decoder or Head"
            raise ValueError(explain_mistake(part) or unknown)
    order = [next(rank for rank, kind in enumerate(_CHAIN_KINDS) if isinstance(part, kind)) for part in parts]
    if not parts or order != sorted(order) or any(order.count(rank) > 1 for rank in (0, 2, 3)) or order[0] != 0:
        raise ValueError(f"a chain is an encoder, then necks, a decoder and a head (got {_format_part_types(parts)})")
    return [("encoder", f"necks[{index - 1}]", "decoder", "head")[rank] for index, rank in enumerate(order)]


def _check_branch(label: str, parts: Sequence[Part]) -> Sequence[Part]:
    """Return the parts of an auxiliary branch. Raises ValueError for anything else."""
    listed = isinstance(parts, list | tuple)
    for part in parts if listed else ():
        if mistake := explain_mistake(part):
            raise ValueError(f"aux.{label}: {mistake}")
    fits = listed and len(parts) in (1, 2) and all(map(isinstance, parts, (Decoder, Head)))
    if not fits:
        given = _format_part_types(parts) if listed else repr(parts)
        raise ValueError(f"aux.{label} must be a tuple of a decoder, or of a decoder and a head (got {given})")
    return parts


def _format_part_types(parts: Sequence[Part]) -> str:
    return ", ".join(type(part).__name__ for part in parts) or "nothing"


def get_module_path(name: str) -> tuple[str, ...]:
    """Return the attributes that lead to a node's module: `necks[0]` is `necks`, `0`."""
    return tuple(name.replace("[", ".").replace("]", "").split("."))
