"""Strategies for parts, chains and graphs of every shape that a text can say. They need not be valid for infer."""

from fractions import Fraction

from hypothesis import strategies as st

from composer.graph import RESERVED_NAMES, Graph, Node, Shared, chain
from composer.layouts import Image
from composer.parts import DECODERS, HEADS, NECKS, Timm, WeightsFile
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.sizes import PADDING_MODES, PADDING_SIDES, Padding
from composer.testing import valid

AWKWARD = [
    *("no", "on", "true", "null", "~", "1e-1", "010", "0x1F", "<<"),
    *("a: b", "- a", "#", "", " ", "é", "\x00", "\x85", "🙂"),
]
"""Strings that YAML reads as something else, or that need quotes."""

truths = st.booleans()
strings = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
weights_files = st.builds(WeightsFile, file=strings.filter(bool), prefix=strings.filter(lambda x: x.strip(".")))
sides = st.none() | st.integers(1, 16_384) | st.tuples(st.integers(1, 16_384), st.integers(1, 16_384))
modest = st.none() | truths | st.integers(-20_000, 20_000) | st.floats(allow_nan=False, allow_infinity=False) | strings
options = st.dictionaries(
    strings.filter(lambda name: name not in FORBIDDEN_TIMM_OPTIONS), modest | st.lists(modest, max_size=3), max_size=3
)


encoders = valid(
    Timm,
    name=st.sampled_from(["resnet18", "vit_small_patch16_224.augreg_in21k", "hf-hub:timm/x"]) | strings.filter(bool),
    out_indices=st.none() | st.lists(st.integers(-64, 63), min_size=1, max_size=5),
    pretrained=truths | strings.filter(bool) | weights_files,
    output_stride=st.none() | st.integers(1, 64),
    img_size=sides,
    tokens=truths,
    any_size=truths,
    options=options,
)
necks, decoders, heads = (st.sampled_from(classes).flatmap(valid) for classes in (NECKS, DECODERS, HEADS))
_OF_KIND = {"encoder": encoders, "neck": necks, "decoder": decoders, "head": heads}

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in RESERVED_NAMES)
strides = st.builds(Fraction, st.integers(1, 64), st.integers(1, 8))
images = st.builds(
    Image,
    channels=st.integers(1, 65_536),
    stride=strides,
    frames=st.none() | st.integers(1, 16),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
)
paddings = st.builds(
    Padding, mode=st.sampled_from(PADDING_MODES), side=st.sampled_from(PADDING_SIDES), multiple=st.sampled_from((1, 32))
)
crops = st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096))


def parts(kind=None):
    """Parts of a kind, or of any, with all their fields."""
    return st.one_of(*_OF_KIND.values()) if kind is None else _OF_KIND[kind]


@st.composite
def chains(draw):
    """Graphs as the chain form says them: any number of necks, perhaps a decoder, a head, and branches."""
    trunk = [draw(encoders), *draw(st.lists(necks, max_size=3))]
    trunk += draw(st.lists(decoders, max_size=1)) + draw(st.lists(heads, max_size=1))
    branch = st.tuples(decoders) | st.tuples(decoders, heads)
    aux = draw(st.dictionaries(names, branch, max_size=2))
    return chain(*trunk, aux=aux, input=draw(images), rescale=draw(truths), crop=draw(crops), padding=draw(paddings))


@st.composite
def graphs(draw):
    """Graphs of named nodes in any acyclic shape, in which every node is needed."""
    labels = draw(st.lists(names, min_size=2, max_size=8, unique=True))
    count = draw(st.integers(1, len(labels) - 1))
    known, nodes = labels[:count], []
    for name in labels[count:]:
        sources = draw(st.lists(st.sampled_from(known), min_size=1, max_size=3))
        keys = draw(st.lists(strings, min_size=len(sources), max_size=len(sources), unique=True))
        owners = [node.name for node in nodes if not isinstance(node.part, Shared)]
        shared = st.builds(Shared, st.sampled_from(owners)) if owners else st.nothing()
        inputs = draw(st.sampled_from([tuple(sources), tuple(zip(keys, sources, strict=True))]))
        nodes.append(Node(name, draw(parts() | shared), inputs))
        known = [*known, name]
    used = {source for node in nodes for source in node.sources}
    used |= {node.part.node for node in nodes if isinstance(node.part, Shared)}
    ends = [node.name for node in nodes if node.name not in used]
    cut = draw(st.integers(1, len(ends)))
    return Graph(
        inputs={name: draw(images) for name in labels[:count] if name in used},
        nodes=draw(st.permutations(nodes)),
        outputs=ends[:cut],
        auxiliary=dict(zip(draw(st.lists(strings, min_size=8, max_size=8, unique=True)), ends[cut:], strict=False)),
        rescale=draw(truths),
        crop=draw(crops),
        padding=draw(paddings),
    )
