"""Specs go through torch.export and torch.compile in one piece, and give the same numbers there.

With dynamic sizes these are the numbers of onnxruntime too, and of a program that another process loads.
"""

import subprocess
import sys
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
"""Sources whose libraries are not of the extra `test`. Whether their parts can be exported is up to them."""

QUICK = ("auxiliary-heads", "class-token", "coarse-cells", "convnext-unet", "optical-radar-unet", "six-bands-fcn")
"""Specs that cover heads, tokens, rescaling, several inputs and bands; the others are exported in the slow tests."""

NAMES = [
    pytest.param(file.stem, marks=[] if file.stem in QUICK else pytest.mark.slow)
    for file in sorted(SPECS.glob("*.yaml"))
    if not any(source in file.read_text("utf-8") for source in OPTIONAL)
]


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return built(request.param)


def built(name):
    return composer.build(composer.read(SPECS / f"{name}.yaml")).eval()


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


def differences(one, other):
    """How far each output is from its counterpart, at most."""
    assert pytree.tree_structure(one) == pytree.tree_structure(other)
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    assert all(x.shape == y.shape for x, y in zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True))
    return [float((x - y).abs().max()) for x, y in pairs]


def test_is_exported(model):
    """At one size, which has to be padded."""
    x = images(model.typed, 66, 98)
    program = export(model, (x,))
    assert max(differences(run(model, x), run(program.module(), x))) == 0


def test_is_compiled_without_a_break(model):
    torch.compiler.reset()
    x = images(model.typed, 66, 98)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert max(differences(run(model, x), run(compiled, x))) == 0


@pytest.mark.slow
def test_is_compiled_to_machine_code():
    """Additions are reordered, so the numbers may differ in their last digits."""
    torch.compiler.reset()
    encoder = composer.Timm("test_vit", out_indices=[0], tokens=True)
    necks = [composer.ReshapeTokensToImage(), composer.InterpolateToPyramidal()]
    decoder = composer.UNetDecoder(channels=[8])
    model = composer.build(composer.chain(encoder, *necks, decoder, composer.SegmentationHead(num_classes=2))).eval()
    x = images(model.typed, 66, 98)
    compiled = torch.compile(model, fullgraph=True, backend="inductor")
    assert max(differences(run(model, x), run(compiled, x))) < 1e-4


DYNAMIC = [
    pytest.param("canopy-height", id="cnn"),
    pytest.param("vit-upernet", id="vit-maps"),
    pytest.param("linear-probe", id="vit-tokens", marks=pytest.mark.slow),
    pytest.param("dinov2-tokens-upernet", id="vit-tokens-pyramid", marks=pytest.mark.slow),
    pytest.param("coarse-cells", id="cells", marks=pytest.mark.slow),
    pytest.param("six-bands-fcn", id="zeros-at-the-end"),
    pytest.param("seasons", id="frames"),
    pytest.param("embedding", id="tokens-of-frames-as-they-are"),
]
"""Swin is not among them: it asks of each size whether it is made of whole windows, and after five minutes torch gives
up on answering for all sizes.
"""
SIZES = [(97, 131), (224, 224), (64, 320), (65, 300)]


@pytest.fixture(scope="module", params=DYNAMIC)
def exported(request):
    """A model, and what it is exported to for images of any size from 64 to 1024."""
    model = built(request.param)
    x = images(model.typed, 130, 170)
    sides = {x.dim() - 2: Dim("height", min=64, max=1024), x.dim() - 1: Dim("width", min=64, max=1024)}
    return model, export(model, (x,), dynamic_shapes=(sides,)).module()


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_an_export_takes_images_of_any_size(exported, size):
    model, program = exported
    x = images(model.typed, *size)
    # UPerNet pools by sums of products there, which round otherwise; all else is equal to the last bit.
    has_pools = any(isinstance(module, torch.nn.AdaptiveAvgPool2d) for module in model.modules())
    assert max(differences(run(model, x), run(program, x))) <= (1e-5 if has_pools else 0)


def test_an_export_keeps_its_word_about_sizes(exported):
    """What is exported gives the shapes that were inferred."""
    model, program = exported
    out = run(program, images(model.typed, 70, 333)).output
    (end,) = model.graph.outputs
    assert shape_of(out) == model.typed.shape(end, 70, 333)


def shape_of(x):
    """The shape of an output; of an embedding, the shapes."""
    return tuple(map(shape_of, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])


RESNET = composer.Timm("test_resnet.r160_in1k", out_indices=[1, 2, 3, 4])
VIT = composer.Timm("test_vit.r160_in1k", out_indices=[0, 1])


def score(source, name):
    """A head behind `source`, and nodes in between."""
    return composer.Node(name, composer.SegmentationHead(num_classes=2), source)


def halving():
    """An encoder of one layer, which halves the image, rounding up."""
    feature = composer.Feature(channels=4, stride=2, rounding="ceil")
    return composer.Custom(torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), features=feature)


CNN = composer.Graph(
    inputs={"optical": composer.Image()},
    nodes=[
        composer.Node("encoder", RESNET, "optical"),
        composer.Node("unet.decoder", composer.UNetDecoder(channels=[16, 8, 8, 8], attention_type="scse"), "encoder"),
        composer.Node("fcn.decoder", composer.FCNDecoder(channels=8, num_convs=1), "encoder"),
        composer.Node("upernet.decoder", composer.UperNetDecoder(channels=8), "encoder"),
        composer.Node("aspp", composer.ASPPRegressionHead(channels=8), "encoder"),
        score("unet.decoder", "unet.head"),
        score("fcn.decoder", "fcn.head"),
        score("upernet.decoder", "upernet.head"),
    ],
    outputs=["unet.head", "aspp"],
    auxiliary={"fcn": "fcn.head", "upernet": "upernet.head"},
)
TRANSFORMER = composer.Graph(
    inputs={"image": composer.Image()},
    nodes=[
        composer.Node("encoder", VIT, "image"),
        composer.Node("probe", composer.LinearDecoder(num_classes=2, upsampling_size=4), "encoder"),
        composer.Node("four", composer.SelectIndices(indices=[0, 0, 1, 1]), "encoder"),
        composer.Node("pyramid", composer.LearnedInterpolateToPyramidal(), "four"),
        composer.Node("decoder", composer.UperNetDecoder(channels=8, align_corners=True), "pyramid"),
        score("decoder", "upernet"),
        composer.Node("coarsest", composer.IdentityDecoder(), "encoder"),
        composer.Node("label", composer.ClassificationHead(num_classes=3), "coarsest"),
        composer.Node("features", composer.EmbeddingHead(), "pyramid"),
    ],
    outputs=["probe", "upernet", "label", "features"],
)
TWO_INPUTS = composer.Graph(
    inputs={"s2": composer.Image(), "s1": composer.Image()},
    nodes=[
        composer.Node("optical", halving(), "s2"),
        composer.Node("radar", halving(), "s1"),
        composer.Node("joined", composer.ConcatFeatures(), ["optical", "radar"]),
        score("joined", "cover"),
    ],
    outputs=["cover"],
)
FEATURES = [f"features.{index}" for index in range(4)]
ONNX = [
    pytest.param((CNN, ["optical"], ["unet.head", "aspp", "fcn.head", "upernet.head"]), id="cnn"),
    pytest.param((TRANSFORMER, ["image"], ["probe", "upernet", "label", *FEATURES]), id="vit"),
    pytest.param((TWO_INPUTS, ["s2", "s1"], ["cover"]), id="two-inputs"),
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
    model, inputs, _, session = onnx_session
    x = images(model.typed, *size)
    given = x if isinstance(x, dict) else {inputs[0]: x}
    found = session.run(None, {name: image.numpy() for name, image in given.items()})
    expected = [tensor.numpy() for tensor in pytree.tree_leaves(run(model, x))]
    assert [one.shape for one in found] == [one.shape for one in expected]
    # Where a map is enlarged by a ratio that is not whole, onnxruntime rounds its coordinates otherwise.
    assert max(np.abs(one - other).max() for one, other in zip(found, expected, strict=True)) < 5e-5


def test_inputs_and_outputs_of_onnx_are_named_as_the_nodes(onnx_session):
    _, inputs, outputs, session = onnx_session
    assert [one.name for one in session.get_inputs()] == inputs
    assert [one.name for one in session.get_outputs()] == outputs


def test_a_model_is_exported_to_onnx_with_dynamic_sizes(tmp_path):
    model, file = small(), tmp_path / "model.onnx"
    height, width = torch.export.Dim("height", min=64, max=4096), torch.export.Dim("width", min=64, max=4096)
    torch.onnx.export(
        model,
        kwargs={"image": torch.zeros(1, 3, 256, 256)},
        f=file,
        dynamo=True,
        dynamic_shapes={"image": {2: height, 3: width}},
        input_names=model.input_names,
        output_names=model.output_names,
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = images(model.typed, 97, 131)
    output, auxiliary = session.run(["head", "aux.early.head"], {"image": x.numpy()})
    expected = run(model, x)
    assert np.abs(output - expected.output.numpy()).max() < 1e-5
    assert np.abs(auxiliary - expected.auxiliary_heads["early"].numpy()).max() < 1e-5


LOADING = """
import sys, torch
from composer import ModelOutput
program, values = sys.argv[1:]
x, expected = torch.load(values)
out = torch.export.load(program).module()(x)
assert type(out) is ModelOutput and list(out.auxiliary_heads) == ["early"]
torch.testing.assert_close([out.output, out.auxiliary_heads["early"]], expected, rtol=0, atol=0)
"""


def small():
    """A model of two outputs, and an image for it."""
    aux = {"early": (composer.IdentityDecoder(out_index=0), composer.SegmentationHead(num_classes=2))}
    encoder = composer.Custom(torch.nn.Conv2d(3, 4, 1), features=composer.Feature(channels=4))
    head = composer.SegmentationHead(num_classes=2)
    return composer.build(composer.chain(encoder, composer.IdentityDecoder(), head, aux=aux)).eval()


def test_a_saved_program_gives_the_same_values_in_another_process(tmp_path):
    model, x = small(), torch.rand(1, 3, 9, 11)
    out = run(model, x)
    torch.export.save(export(model, (x,)), tmp_path / "program.pt2")
    torch.save((x, [out.output, out.auxiliary_heads["early"]]), tmp_path / "values.pt")
    subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path / "program.pt2", tmp_path / "values.pt"], check=True, timeout=120
    )


@pytest.mark.slow
def test_aot_inductor_gives_the_same_values(tmp_path):
    model, x = small(), torch.rand(1, 3, 9, 11)
    package = str(tmp_path / "model.pt2")
    torch._inductor.aoti_compile_and_package(export(model, (x,)), package_path=package)
    compiled = torch._inductor.aoti_load_package(package)
    assert max(differences(run(model, x), run(compiled, x))) < 1e-5
