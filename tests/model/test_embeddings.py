"""EmbeddingHead: what leaves a model as it is, in any number and layout, of the padded image, as promised."""

from __future__ import annotations

import re

import pytest
import torch
from attrs import evolve, frozen
from torch import nn
from torch.utils import _pytree as pytree

import composer
from composer.graph import Node, Shared
from composer.inference import compute_symbolic_shape
from composer.layouts import Feature, Image
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from tests.law.toys import Toy

ENCODER = Timm("test_resnet", out_indices=[1, 3])


def built(*parts, **rest):
    return composer.build(composer.chain(*parts, **rest)).eval()


def run(model, x):
    with torch.no_grad():
        return model(x)


@pytest.fixture(scope="module")
def levels():
    return built(ENCODER, EmbeddingHead())


def test_features_leave_as_they_are(levels, tmp_path):
    composer.save(levels, tmp_path / "model.safetensors")
    x = torch.rand(2, 3, 64, 96)
    output, loaded = run(levels, x).output, run(composer.load(tmp_path / "model.safetensors").eval(), x).output
    with torch.no_grad():
        expected = tuple(levels.encoder(x))
    assert type(output) is tuple
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)
    assert [name for name in levels.state_dict() if not name.startswith("encoder.")] == []


def test_they_cover_the_padded_image(levels):
    assert levels.typed.sizes.compute_padded_size(70, 90) == (80, 96)
    assert [tuple(y.shape) for y in run(levels, torch.rand(2, 3, 70, 90)).output] == [(2, 32, 20, 24), (2, 192, 5, 6)]
    assert levels.typed.shape("head", 70, 90) == (("b", 32, 20, 24), ("b", 192, 5, 6))


FEATURES = {
    "finer": (Feature(channels=5, stride="1/2"), ("b", 5, 24, 32), ("b", 5, "2H", "2W")),
    "ratio": (Feature(channels=5, stride="4/3"), ("b", 5, 9, 12), ("b", 5, "3H/4", "3W/4")),
    "rounded-up": (
        Feature(channels=5, stride=5, rounding="ceil", axes="b h w c"),
        ("b", 3, 4, 5),
        ("b", "ceil(H/5)", "ceil(W/5)", 5),
    ),
    "rounded-down": (
        Feature(channels=5, stride=5, rounding="floor", axes="b w c h"),
        ("b", 3, 5, 2),
        ("b", "floor(W/5)", 5, "floor(H/5)"),
    ),
    "vector": (Feature(channels=5, stride=None, axes="b c"), ("b", 5), ("b", 5)),
    "prefix": (Feature(channels=5, stride=4, axes="b c n", prefix=2), ("b", 5, 14), ("b", 5, "2+H/4*W/4")),
    "frames-among-tokens": (
        Feature(channels=5, stride=4, axes="b n c", prefix=1, frames=3),
        ("b", 37, 5),
        ("b", "1+3*H/4*W/4", 5),
    ),
    "tokens-per-frame": (
        Feature(channels=5, stride=4, axes="b t n c", prefix=1, frames=3),
        ("b", 3, 13, 5),
        ("b", 3, "1+H/4*W/4", 5),
    ),
    "batch-behind": (Feature(channels=5, stride=4, axes="c h b w"), (5, 3, "b", 4), (5, "H/4", "b", "W/4")),
}


@pytest.mark.parametrize(("feature", "shape", "symbols"), FEATURES.values(), ids=FEATURES)
def test_any_layout_has_its_shape(feature, shape, symbols):
    model = built(Toy(features=(feature,)), EmbeddingHead())
    (out,) = run(model, torch.rand(2, 3, 12, 16)).output
    assert model.typed.shape("head", 12, 16) == (shape,)
    assert tuple(out.shape) == tuple(2 if size == "b" else size for size in shape)
    assert compute_symbolic_shape(model.typed, "head") == (symbols,)


def test_they_stand_beside_predictions_and_in_auxiliary_branches():
    """A prediction, and embeddings at the end, in an auxiliary branch, and by a shared head, in one pytree."""
    graph = composer.Graph(
        inputs={"image": Image()},
        nodes=[
            Node("levels", ENCODER, "image"),
            Node("last", IdentityDecoder(), "levels"),
            Node("all", EmbeddingHead(), "levels"),
            Node("again", Shared("all"), "levels"),
            Node("cover", SegmentationHead(num_classes=4), "last"),
        ],
        outputs=["cover", "all"],
        auxiliary={"early": "again"},
        crop=(20, 30),
    )
    model = composer.build(graph).eval()
    out = run(model, torch.rand(1, 3, 64, 64))
    assert list(out.output) == ["cover", "all"]
    assert out.output["cover"].shape == (1, 4, 20, 30)
    assert [tuple(y.shape) for y in out.output["all"]] == [(1, 32, 16, 16), (1, 192, 4, 4)]
    assert [y is z for y, z in zip(out.auxiliary_heads["early"], out.output["all"], strict=True)] == [True, True]
    assert model.typed.shape("again", 64, 64) == (("b", 32, 16, 16), ("b", 192, 4, 4))

    leaves, structure = pytree.tree_flatten(out)
    assert len(leaves) == 5
    again = pytree.tree_unflatten(leaves, structure)
    assert (type(again), type(again.output["all"])) == (composer.ModelOutput, tuple)


@frozen
class Wrong(composer.Neck):
    """Declares two maps, and emits `shapes` instead."""

    shapes: tuple[tuple[int, ...], ...]
    axes: str = "b c h w"


@composer.contract.register(Wrong)
def _(part, features):
    return (evolve(features[0], axes=part.axes),) * 2


class WrongModule(nn.Module):
    def __init__(self, part, _):
        super().__init__()
        self.shapes = part.shapes

    def forward(self, features):
        return tuple(torch.zeros(shape) for shape in self.shapes)


composer.module.register(Wrong)(WrongModule)

WRONG = {
    "fewer": (Wrong(shapes=((1, 5, 4, 4),)), "2 features and gave 1"),
    "second": (
        Wrong(shapes=((1, 5, 4, 4), (1, 5, 4, 5))),
        "a feature of shape ('b', 5, 4, 4) and gave (1, 5, 4, 5)",
    ),
    "rank": (Wrong(shapes=((1, 5, 4, 4), (1, 5, 4))), "a feature of shape ('b', 5, 4, 4) and gave (1, 5, 4)"),
    "batch-behind": (
        Wrong(shapes=((5, 1, 4, 4), (6, 1, 4, 4)), axes="c b h w"),
        "a feature of shape (5, 'b', 4, 4) and gave (6, 1, 4, 4)",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG)
def test_other_shapes_than_the_contract_says_are_an_error(wrong, message):
    model = built(Toy(features=(Feature(channels=5, stride=4),)), wrong, EmbeddingHead())
    message = re.escape(f"head promised {message}: its contract and its module disagree")
    with pytest.raises(RuntimeError, match=f"^{message}$"):
        run(model, torch.rand(1, 3, 16, 16))
