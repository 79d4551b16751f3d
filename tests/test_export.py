"""Models go through torch.export and torch.compile in one piece, and give the same numbers there.

With dynamic sizes these are the numbers of onnxruntime too, and of a program that is saved and loaded.
"""

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.export import Dim, export
from torch.utils import _pytree as pytree

import composer

SPECS = Path(__file__).parent.parent / "specs"
OPTIONAL = ("terratorch/", "transformers/", "mmseg/")
"""Sources whose libraries are not in the extra `test`. Whether their parts can be exported is up to them."""

SLOW = pytest.mark.slow

HEAD = composer.SegmentationHead(num_classes=2)
RESNET = composer.Timm("test_resnet.r160_in1k", out_indices=[1, 2, 3, 4])
VIT = composer.Timm("test_vit.r160_in1k", out_indices=[0, 1])


def read(name):
    return composer.read(SPECS / f"{name}.yaml")


def images(typed, height, width, seed=0):
    """Random images for a graph that cover `height` by `width` reference pixels."""
    noise = torch.Generator().manual_seed(seed)
    by_name = {
        name: torch.randn(image.feature.shape(1, height, width), generator=noise) for name, image in typed.graph.inputs
    }
    return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def run(model, x):
    with torch.no_grad():
        return model(x)


def find_difference(one, other):
    """Return the largest difference of any output."""
    assert pytree.tree_structure(one) == pytree.tree_structure(other)
    pairs = list(zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True))
    assert [x.shape for x, _ in pairs] == [y.shape for _, y in pairs]
    return max(float((x - y).abs().max()) for x, y in pairs)


STEM = composer.Custom(
    torch.nn.Conv2d(3, 4, 4, stride=4),
    features=composer.Feature(channels=4, stride=4),
    sizes=composer.SizeConstraint(multiple=8, square=True),
)
TINY = {
    "pools": composer.chain(
        composer.Timm("test_resnet.r160_in1k", out_indices=[1, 2]), composer.UperNetDecoder(channels=8), HEAD
    ),
    "cells of a square": composer.chain(STEM, composer.IdentityDecoder(), HEAD, rescale=False),
    "scores enlarged by the head": composer.chain(
        STEM,
        composer.IdentityDecoder(),
        composer.SegmentationHead(num_classes=2, kernel_size=3, upsampling=4, final_act="Softmax"),
        aux={"image": (composer.IdentityDecoder(), composer.ClassificationHead(num_classes=2, pooling="max"))},
    ),
    "zeros at the end": composer.chain(
        STEM, composer.IdentityDecoder(), HEAD, padding=composer.Padding(mode="zeros", side="end"), crop=(48, 64)
    ),
    "tokens of frames": composer.chain(
        composer.Timm("test_vit", out_indices=[0], tokens=True),
        composer.TemporalPooling(),
        composer.EmbeddingHead(),
        input=composer.Image(frames=2),
    ),
}
DYNAMIC = [
    *(pytest.param(graph, id=name) for name, graph in TINY.items()),
    *(
        pytest.param(read(name), id=name, marks=SLOW)
        for name in (
            "canopy-height",
            "vit-upernet",
            "linear-probe",
            "dinov2-tokens-upernet",
            "coarse-cells",
            "six-bands-fcn",
            "seasons",
            "embedding",
        )
    ),
]
"""Swin is not among them: it asks of each size whether it is made of whole windows, and after five minutes torch gives
up on answering for all sizes.
"""


@pytest.fixture(scope="module", params=DYNAMIC)
def exported(request):
    """A model, and what it is exported to for images of any size from 64 to 1024."""
    model = composer.build(request.param).eval()
    x = images(model.typed, 130, 170)
    sides = {x.dim() - 2: Dim("height", min=64, max=1024), x.dim() - 1: Dim("width", min=64, max=1024)}
    return model, export(model, (x,), dynamic_shapes=(sides,)).module()


@pytest.mark.parametrize("size", [(97, 131), (224, 224), (64, 320), (65, 300)], ids=str)
def test_an_export_takes_images_of_any_size(exported, size):
    model, program = exported
    x = images(model.typed, *size)
    out = run(program, x)
    # UPerNet pools by sums of products there, which round otherwise; all else is equal to the last bit.
    has_pools = any(isinstance(module, torch.nn.AdaptiveAvgPool2d) for module in model.modules())
    assert find_difference(run(model, x), out) <= (1e-5 if has_pools else 0)
    (end,) = model.graph.outputs
    assert get_shape(out.output) == model.typed.shape(end, *size)


def get_shape(x):
    """The shape of an output; of an embedding, the shapes."""
    return tuple(map(get_shape, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])


def node(name, part, source):
    return composer.Node(name, part, source)


def halving():
    """An encoder of one layer, which halves the image, rounding up."""
    feature = composer.Feature(channels=4, stride=2, rounding="ceil")
    return composer.Custom(torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), features=feature)


CNN = composer.Graph(
    inputs={"optical": composer.Image()},
    nodes=[
        node("encoder", RESNET, "optical"),
        node("unet.decoder", composer.UNetDecoder(channels=[16, 8, 8, 8], attention_type="scse"), "encoder"),
        node("fcn.decoder", composer.FCNDecoder(channels=8, num_convs=1), "encoder"),
        node("upernet.decoder", composer.UperNetDecoder(channels=8), "encoder"),
        node("aspp", composer.ASPPRegressionHead(channels=8), "encoder"),
        node("unet.head", HEAD, "unet.decoder"),
        node("fcn.head", HEAD, "fcn.decoder"),
        node("upernet.head", HEAD, "upernet.decoder"),
    ],
    outputs=["unet.head", "aspp"],
    auxiliary={"fcn": "fcn.head", "upernet": "upernet.head"},
)
TRANSFORMER = composer.Graph(
    inputs={"image": composer.Image()},
    nodes=[
        node("encoder", VIT, "image"),
        node("probe", composer.LinearDecoder(num_classes=2, upsampling_size=4), "encoder"),
        node("four", composer.SelectIndices(indices=[0, 0, 1, 1]), "encoder"),
        node("pyramid", composer.LearnedInterpolateToPyramidal(), "four"),
        node("decoder", composer.UperNetDecoder(channels=8, align_corners=True), "pyramid"),
        node("upernet", HEAD, "decoder"),
        node("coarsest", composer.IdentityDecoder(), "encoder"),
        node("label", composer.ClassificationHead(num_classes=3), "coarsest"),
        node("features", composer.EmbeddingHead(), "pyramid"),
    ],
    outputs=["probe", "upernet", "label", "features"],
)
TWO_INPUTS = composer.Graph(
    inputs={"s2": composer.Image(), "s1": composer.Image()},
    nodes=[
        node("optical", halving(), "s2"),
        node("radar", halving(), "s1"),
        node("joined", composer.ConcatFeatures(), ["optical", "radar"]),
        node("cover", HEAD, "joined"),
        node("features", composer.EmbeddingHead(), "joined"),
    ],
    outputs=["cover"],
    auxiliary={"early": "features"},
)
COMPILED = [
    pytest.param(TINY["tokens of frames"], id="tokens of frames"),
    pytest.param(TWO_INPUTS, id="two inputs"),
    pytest.param(TRANSFORMER, id="vit", marks=SLOW),
    *(
        pytest.param(composer.read(file), id=file.stem, marks=SLOW)
        for file in sorted(SPECS.glob("*.yaml"))
        if not any(source in file.read_text("utf-8") for source in OPTIONAL)
    ),
]


@pytest.mark.parametrize("graph", COMPILED)
def test_compile_without_a_graph_break(graph):
    torch.compiler.reset()
    model = composer.build(graph).eval()
    x = images(model.typed, 66, 98)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert find_difference(run(model, x), run(compiled, x)) == 0


@SLOW
def test_compile_to_machine_code():
    """Additions are reordered, so the last digits may differ."""
    torch.compiler.reset()
    encoder = composer.Timm("test_vit", out_indices=[0], tokens=True)
    necks = [composer.ReshapeTokensToImage(), composer.InterpolateToPyramidal()]
    model = composer.build(composer.chain(encoder, *necks, composer.UNetDecoder(channels=[8]), HEAD)).eval()
    x = images(model.typed, 66, 98)
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    assert find_difference(run(model, x), run(compiled, x)) < 1e-4


FEATURES = [f"features.{index}" for index in range(4)]
ONNX = [
    pytest.param((TWO_INPUTS, ["s2", "s1"], ["cover", "features.0"]), id="two-inputs"),
    pytest.param((CNN, ["optical"], ["unet.head", "aspp", "fcn.head", "upernet.head"]), id="cnn", marks=SLOW),
    pytest.param((TRANSFORMER, ["image"], ["probe", "upernet", "label", *FEATURES]), id="vit", marks=SLOW),
]


@pytest.fixture(scope="module", params=ONNX)
def onnx_session(request, tmp_path_factory):
    """A model, the names of its inputs and outputs, and its ONNX file in onnxruntime, for sides from 64 to 512."""
    graph, inputs, outputs = request.param
    model = composer.build(graph).eval()
    x = images(model.typed, 130, 170)
    sides = {2: Dim("height", min=64, max=512), 3: Dim("width", min=64, max=512)}
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with warnings.catch_warnings():
        # torch says which of two inputs an axis that both have is called after.
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        torch.onnx.export(
            model,
            kwargs={"image": x},
            f=file,
            dynamo=True,
            verbose=False,
            dynamic_shapes={"image": dict.fromkeys(x, sides) if isinstance(x, dict) else sides},
            input_names=model.input_names,
            output_names=model.output_names,
        )
    return model, inputs, outputs, onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [(130, 170), (97, 131), (224, 224), (64, 320), (65, 300)], ids=str)
def test_onnxruntime_gives_the_same_values_at_any_size(onnx_session, size):
    model, inputs, outputs, session = onnx_session
    x = images(model.typed, *size)
    by_name = x if isinstance(x, dict) else {inputs[0]: x}
    found = session.run(outputs, {name: image.numpy() for name, image in by_name.items()})
    expected = [tensor.numpy() for tensor in pytree.tree_leaves(run(model, x))]
    assert [one.shape for one in found] == [one.shape for one in expected]
    # Where a map is enlarged by a ratio that is not whole, onnxruntime rounds its coordinates otherwise.
    assert max(np.abs(one - other).max() for one, other in zip(found, expected, strict=True)) < 5e-5


def test_inputs_and_outputs_of_onnx_are_named_after_the_nodes(onnx_session):
    _, inputs, outputs, session = onnx_session
    assert [one.name for one in session.get_inputs()] == inputs
    assert [one.name for one in session.get_outputs()] == outputs


@pytest.fixture(scope="module")
def program():
    """A model of two outputs, an image for it, and the program that it is exported to."""
    aux = {"early": (composer.IdentityDecoder(out_index=0), HEAD)}
    encoder = composer.Custom(torch.nn.Conv2d(3, 4, 1), features=composer.Feature(channels=4))
    model = composer.build(composer.chain(encoder, composer.IdentityDecoder(), HEAD, aux=aux)).eval()
    x = torch.rand(1, 3, 9, 11)
    return model, x, export(model, (x,))


def test_a_saved_program_gives_the_same_values(program, tmp_path):
    model, x, exported = program
    torch.export.save(exported, tmp_path / "program.pt2")
    out = run(torch.export.load(tmp_path / "program.pt2").module(), x)
    assert type(out) is composer.ModelOutput
    assert find_difference(run(model, x), out) == 0


@SLOW
def test_aot_inductor_gives_the_same_values(program, tmp_path):
    model, x, exported = program
    package = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(exported, package_path=package)
    assert find_difference(run(model, x), run(torch._inductor.aoti_load_package(package), x)) < 1e-5
