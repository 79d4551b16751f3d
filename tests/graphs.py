"""Strategies for parts, chains and graphs of every shape that a text can say. They need not be lawful for infer."""

from fractions import Fraction

from hypothesis import strategies as st

from composer.graph import RESERVED_NAMES, Graph, Node, Shared, chain
from composer.layouts import Image
from composer.parts import (
    DECODERS,
    HEADS,
    NECKS,
    AddBottleneckLayer,
    AddFeatures,
    AggregateTokens,
    ASPPRegressionHead,
    ASPPSegmentationHead,
    ClassificationHead,
    ConcatFeatures,
    EmbeddingHead,
    FCNDecoder,
    FeaturePyramidNetworkNeck,
    IdentityDecoder,
    InterpolateToPyramidal,
    LearnedInterpolateToPyramidal,
    LinearDecoder,
    MaxpoolToPyramidal,
    MLPDecoder,
    PermuteDims,
    RegressionHead,
    ReshapeTokensToImage,
    ScalarHead,
    SegmentationHead,
    SelectIndices,
    TemporalPooling,
    Timm,
    UNetDecoder,
    UperNetDecoder,
    WeightsFile,
)
from composer.parts.decoders import UNET_NORMS
from composer.parts.encoders import FORBIDDEN_TIMM_OPTIONS
from composer.parts.necks import INTERPOLATIONS
from composer.parts.tokens import AGGREGATIONS, POOLINGS
from composer.parts.validators import ACTIVATIONS, FINAL_ACTIVATIONS
from composer.sizes import PADDING_MODES, PADDING_SIDES, Padding

AWKWARD = [
    "no",
    "on",
    "true",
    "null",
    "~",
    "1e-1",
    "010",
    "0x1F",
    "<<",
    "a: b",
    "- a",
    "#",
    "",
    " ",
    "é",
    "\x00",
    "\x85",
    "🙂",
]
"""Strings that YAML reads as something else, or that need quotes."""

channels = st.integers(1, 65_536)
indices = st.integers(-64, 63)
truths = st.booleans()
rates = st.floats(0, 1, exclude_max=True)
strings = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
weights_files = st.builds(WeightsFile, file=strings.filter(bool), prefix=strings.filter(lambda x: x.strip(".")))
widths = st.lists(channels, max_size=5)
maybe_widths = st.none() | widths
sides = st.none() | st.integers(1, 16_384) | st.tuples(st.integers(1, 16_384), st.integers(1, 16_384))
modest = st.none() | truths | st.integers(-20_000, 20_000) | st.floats(allow_nan=False, allow_infinity=False) | strings
options = st.dictionaries(
    strings.filter(lambda name: name not in FORBIDDEN_TIMM_OPTIONS), modest | st.lists(modest, max_size=3), max_size=3
)


def _made(part, **fields):
    """Parts with any of their fields given; the others keep their defaults."""
    required = {name: fields.pop(name) for name in [name for name in fields if name.startswith("_")]}
    return st.fixed_dictionaries({name[1:]: field for name, field in required.items()}, optional=fields).map(
        lambda given: part(**given)
    )


ENCODERS_OF = {
    Timm: _made(
        Timm,
        _name=st.sampled_from(["resnet18", "vit_small_patch16_224.augreg_in21k", "hf-hub:timm/x"])
        | strings.filter(bool),
        out_indices=st.none() | st.lists(indices, min_size=1, max_size=5),
        pretrained=truths | strings.filter(bool) | weights_files,
        output_stride=st.none() | st.integers(1, 64),
        img_size=sides,
        tokens=truths,
        any_size=truths,
        options=options,
    )
}
NECKS_OF = {
    SelectIndices: _made(SelectIndices, _indices=st.lists(indices, min_size=1, max_size=6)),
    PermuteDims: _made(PermuteDims, _new_order=st.lists(st.integers(0, 4), min_size=1, max_size=5)),
    InterpolateToPyramidal: _made(
        InterpolateToPyramidal, scale_factor=st.integers(1, 8), mode=st.sampled_from(INTERPOLATIONS)
    ),
    MaxpoolToPyramidal: _made(MaxpoolToPyramidal, kernel_size=st.integers(1, 8)),
    ReshapeTokensToImage: _made(
        ReshapeTokensToImage,
        remove_cls_token=truths,
        effective_time_dim=st.none() | st.integers(1, 1024),
        h=st.none() | st.integers(1, 16_384),
    ),
    AddBottleneckLayer: st.just(AddBottleneckLayer()),
    LearnedInterpolateToPyramidal: st.just(LearnedInterpolateToPyramidal()),
    FeaturePyramidNetworkNeck: _made(FeaturePyramidNetworkNeck, out_channel=channels),
    AggregateTokens: _made(
        AggregateTokens,
        pooling=st.sampled_from(AGGREGATIONS) | st.integers(0, 1023),
        indices=st.none() | indices | st.lists(indices, min_size=1, max_size=5),
    )
    | _made(AggregateTokens, pooling=st.sampled_from(AGGREGATIONS[:3]), drop_cls=truths),
    TemporalPooling: _made(
        TemporalPooling,
        pooling=st.sampled_from(POOLINGS),
        subset_lengths=st.none() | st.lists(st.integers(1, 1024), min_size=1, max_size=5),
    ),
    ConcatFeatures: st.just(ConcatFeatures()),
    AddFeatures: st.just(AddFeatures()),
}


def _aspp(part, **fields):
    """One of the ASPP heads, of one map or of several."""
    fields |= {"_channels": channels, "dilations": st.lists(st.integers(1, 256), max_size=4)}
    fields |= {"align_corners": truths, "head_dropout_ratio": rates, "includes_head": truths}
    several = {"_in_index": st.lists(indices, min_size=1, max_size=5), "_input_transform": st.just("resize_concat")}
    return _made(part, in_index=indices, **fields) | _made(part, **several, **fields)


DECODERS_OF = {
    IdentityDecoder: _made(IdentityDecoder, out_index=indices),
    FCNDecoder: _made(FCNDecoder, channels=channels, num_convs=st.integers(1, 8), in_index=indices),
    UNetDecoder: _made(
        UNetDecoder,
        _channels=st.lists(channels, min_size=1, max_size=6),
        use_batchnorm=st.sampled_from(UNET_NORMS),
        attention_type=st.sampled_from([None, "scse"]),
    ),
    UperNetDecoder: _made(
        UperNetDecoder,
        pool_scales=st.lists(st.integers(1, 64), max_size=5),
        channels=channels,
        align_corners=truths,
        scale_modules=truths,
    ),
    LinearDecoder: _made(
        LinearDecoder,
        _num_classes=channels,
        _upsampling_size=st.integers(1, 64),
        in_index=indices,
        includes_head=truths,
    ),
    ASPPSegmentationHead: _aspp(ASPPSegmentationHead, num_classes=channels),
    ASPPRegressionHead: _aspp(ASPPRegressionHead, out_channels=channels),
    MLPDecoder: _made(
        MLPDecoder,
        channels=st.none() | channels,
        out_dim=st.none() | channels,
        activation=st.sampled_from(ACTIVATIONS),
        out_index=indices,
    ),
}
HEADS_OF = {
    SegmentationHead: _made(SegmentationHead, _num_classes=channels, channel_list=maybe_widths, dropout=rates),
    RegressionHead: _made(
        RegressionHead,
        num_outputs=channels,
        final_act=st.none() | st.sampled_from(FINAL_ACTIVATIONS),
        learned_upscale_layers=st.integers(0, 6),
        channel_list=maybe_widths,
        batch_norm=truths,
        dropout=rates,
    ),
    ClassificationHead: _made(
        ClassificationHead, _num_classes=channels, dim_list=maybe_widths, dropout=rates, linear_after_pool=truths
    ),
    EmbeddingHead: st.just(EmbeddingHead()),
    ScalarHead: _made(
        ScalarHead, _num_outputs=channels, dim_list=maybe_widths, dropout=rates, linear_after_pool=truths
    ),
}
assert (set(NECKS_OF), set(DECODERS_OF), set(HEADS_OF)) == (set(NECKS), set(DECODERS), set(HEADS)), "a part is missing"

encoders = st.one_of(*ENCODERS_OF.values())
necks = st.one_of(*NECKS_OF.values())
decoders = st.one_of(*DECODERS_OF.values())
heads = st.one_of(*HEADS_OF.values())
_OF_KIND = {"encoder": encoders, "neck": necks, "decoder": decoders, "head": heads}

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in RESERVED_NAMES)
strides = st.builds(Fraction, st.integers(1, 64), st.integers(1, 8))
images = _made(
    Image,
    channels=channels,
    stride=strides,
    frames=st.none() | st.integers(1, 16),
    size=st.none() | st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
)
paddings = _made(
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
