"""Every spec goes through torch.export and torch.compile in one piece, and gives the same numbers there."""

from pathlib import Path

import pytest
import torch
from torch.export import Dim, export
from torch.utils import _pytree as pytree

import composer

SPECS = Path(__file__).parent.parent / "specs"
OPTIONAL = ("terratorch/", "transformers/", "mmseg/")
"""Sources whose libraries are not of the extra `test`. Whether their parts can be exported is up to them."""

NAMES = sorted(
    file.stem for file in SPECS.glob("*.yaml") if not any(source in file.read_text("utf-8") for source in OPTIONAL)
)


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
    pytest.param("linear-probe", id="vit-tokens"),
    pytest.param("dinov2-tokens-upernet", id="vit-tokens-pyramid"),
    pytest.param("coarse-cells", id="cells"),
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
    assert max(differences(run(model, x), run(program, x))) == 0


def test_an_export_keeps_its_word_about_sizes(exported):
    """What is exported gives the shapes that were inferred."""
    model, program = exported
    out = run(program, images(model.typed, 70, 333)).output
    (end,) = model.graph.outputs
    assert shape_of(out) == model.typed.shape(end, 70, 333)


def shape_of(x):
    """The shape of an output; of an embedding, the shapes."""
    return tuple(map(shape_of, x)) if isinstance(x, tuple) else ("b", *x.shape[1:])
