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
from composer.graph import Node
from tests.law.test_graphs import outputs_of, shapes_in
from tests.test_specs import images

SPECS = Path(__file__).parent.parent / "specs"
OPTIONAL = ("terratorch/", "transformers/", "mmseg/")
"""Sources whose libraries are not in the extra `test`. Whether their parts can be exported is up to them."""

SLOW = pytest.mark.slow
HEAD = composer.SegmentationHead(num_classes=2)


def run(model, x):
    with torch.no_grad():
        return model(x)


def find_difference(one, other):
    """Return the largest difference of any output."""
    assert pytree.tree_structure(one) == pytree.tree_structure(other)
    pairs = list(zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True))
    assert [x.shape for x, _ in pairs] == [y.shape for _, y in pairs]
    return max(float((x - y).abs().max()) for x, y in pairs)


def conv(stride, **rest):
    """An encoder of one layer."""
    feature = composer.Feature(channels=4, stride=stride, **rest)
    layer = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1) if rest else torch.nn.Conv2d(3, 4, stride, stride=stride)
    sizes = composer.SizeConstraint(multiple=1 if rest else 8, square=not rest)
    return composer.Custom(layer, features=feature, sizes=sizes)


CNN = composer.Graph(
    inputs={"optical": composer.Image()},
    nodes=[
        Node("encoder", composer.Timm("test_resnet.r160_in1k", out_indices=[1, 2]), "optical"),
        Node("pyramid", composer.FeaturePyramidNetworkNeck(out_channel=8), "encoder"),
        Node("unet.decoder", composer.UNetDecoder(channels=[16, 8], attention_type="scse"), "encoder"),
        Node("fcn.decoder", composer.FCNDecoder(channels=8, num_convs=1), "encoder"),
        Node("upernet.decoder", composer.UperNetDecoder(channels=8), "pyramid"),
        Node("aspp", composer.ASPPRegressionHead(channels=8), "encoder"),
        Node("unet.head", HEAD, "unet.decoder"),
        Node("fcn.head", HEAD, "fcn.decoder"),
        Node("upernet.head", HEAD, "upernet.decoder"),
    ],
    outputs=["unet.head", "aspp"],
    auxiliary={"fcn": "fcn.head", "upernet": "upernet.head"},
)
TRANSFORMER = composer.Graph(
    inputs={"image": composer.Image()},
    nodes=[
        Node("encoder", composer.Timm("test_vit.r160_in1k", out_indices=[0, 1], tokens=True), "image"),
        Node("maps", composer.ReshapeTokensToImage(), "encoder"),
        Node("probe", composer.LinearDecoder(num_classes=2, upsampling_size=4), "maps"),
        Node("four", composer.SelectIndices(indices=[0, 0, 1, 1]), "maps"),
        Node("pyramid", composer.LearnedInterpolateToPyramidal(), "four"),
        Node("decoder", composer.UperNetDecoder(channels=8, align_corners=True), "pyramid"),
        Node("upernet", HEAD, "decoder"),
        Node("mean", composer.AggregateTokens(), "encoder"),
        Node("vector", composer.IdentityDecoder(), "mean"),
        Node("label", composer.ClassificationHead(num_classes=3), "vector"),
        Node("features", composer.EmbeddingHead(), "pyramid"),
    ],
    outputs=["probe", "upernet", "label", "features"],
)
DYNAMIC = {
    "convolutions": CNN,
    "tokens": TRANSFORMER,
    "scores enlarged by the head": composer.chain(
        conv(4),
        composer.IdentityDecoder(),
        composer.SegmentationHead(num_classes=2, kernel_size=3, upsampling=4, final_act="Softmax"),
        aux={"image": (composer.IdentityDecoder(), composer.ClassificationHead(num_classes=2, pooling="max"))},
    ),
    "cells of a square": composer.chain(conv(4), composer.IdentityDecoder(), HEAD, rescale=False),
    "zeros at the end": composer.chain(
        conv(4), composer.IdentityDecoder(), HEAD, padding=composer.Padding(mode="zeros", side="end"), crop=(48, 64)
    ),
    "tokens of frames": composer.chain(
        composer.Timm("test_vit", out_indices=[0], tokens=True),
        composer.TemporalPooling(),
        composer.EmbeddingHead(),
        input=composer.Image(frames=2),
    ),
}
"""Swin is not among them: it asks of each size whether it is made of whole windows, and after five minutes torch gives
up on answering for all sizes.
"""


@pytest.fixture(scope="module", params=DYNAMIC.values(), ids=DYNAMIC)
def exported(request):
    """A model, and what it is exported to for images of any size from 64 to 1024."""
    model = composer.build(request.param).eval()
    x = images(model.typed, 130, 170)
    sides = {x.dim() - 2: Dim("height", min=64, max=1024), x.dim() - 1: Dim("width", min=64, max=1024)}
    return model, export(model, (x,), dynamic_shapes=(sides,)).module()


@pytest.mark.parametrize("size", [(97, 131), (224, 224), (64, 320)], ids=str)
def test_an_export_takes_images_of_any_size(exported, size):
    model, program = exported
    x = images(model.typed, *size)
    out = run(program, x)
    # Pooling to a number of cells is a sum of products there, which rounds otherwise; all else is equal.
    has_pools = any(isinstance(module, torch.nn.AdaptiveAvgPool2d) for module in model.modules())
    assert find_difference(run(model, x), out) <= (1e-5 if has_pools else 0)
    ends = {name: shapes_in(y) for name, y in outputs_of(out, model.graph).items()}
    assert ends == {name: model.typed.shape(name, *size) for name in model.typed.ends}


HALVING = conv(2, rounding="ceil")
TWO_INPUTS = composer.Graph(
    inputs={"s2": composer.Image(), "s1": composer.Image()},
    nodes=[
        Node("optical", HALVING, "s2"),
        Node("radar", HALVING, "s1"),
        Node("joined", composer.ConcatFeatures(), ["optical", "radar"]),
        Node("cover", HEAD, "joined"),
        Node("features", composer.EmbeddingHead(), "joined"),
    ],
    outputs=["cover"],
    auxiliary={"early": "features"},
)
COMPILED = [
    pytest.param(DYNAMIC["tokens of frames"], id="tokens of frames"),
    pytest.param(TWO_INPUTS, id="two inputs"),
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
    model = composer.build(TRANSFORMER).eval()
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


@pytest.mark.parametrize("size", [(130, 170), (224, 224), (65, 300)], ids=str)
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


def test_a_saved_program_gives_the_same_values(tmp_path):
    model, x = composer.build(TWO_INPUTS).eval(), images(composer.infer(TWO_INPUTS), 9, 11)
    torch.export.save(export(model, (x,)), tmp_path / "program.pt2")
    out = run(torch.export.load(tmp_path / "program.pt2").module(), x)
    assert type(out) is composer.ModelOutput
    assert find_difference(run(model, x), out) == 0
