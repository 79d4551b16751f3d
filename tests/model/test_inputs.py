"""What a model takes and returns: one image or several, one output or several, and its errors for other input."""

import re

import numpy as np
import pytest
import torch
from attrs import frozen
from torch import nn

import composer
from composer.graph import Graph, Node
from composer.layouts import Feature, Image
from composer.parts.base import Encoder
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Custom
from composer.parts.heads import SegmentationHead
from composer.parts.necks import SelectIndices
from composer.sizes import SizeConstraint


class LastFrame(nn.Module):
    def forward(self, x_BCTHW):
        return x_BCTHW[:, :, -1]


def echo(channels=3, sizes=SizeConstraint()):  # noqa: B008, frozen
    """An encoder that gives its image."""
    return Custom(nn.Identity(), features=Feature(channels=channels), channels=channels, sizes=sizes)


LAST = Custom(LastFrame(), features=Feature(channels=3), frames=2)
ONE = composer.chain(echo())
FRAMES = composer.chain(LAST, input=Image(channels=3, frames=2))
TWO = Graph(
    inputs={"s2": Image(channels=4), "s1": Image(channels=2, stride=2)},
    nodes=[Node("optical", echo(4), "s2"), Node("radar", echo(2), "s1")],
    outputs=["optical", "radar"],
)


def s2_and_s1(s2, s1):
    return {"s2": torch.ones(s2), "s1": torch.ones(s1)}


@pytest.mark.parametrize(
    ("graph", "shape", "step"),
    [
        (ONE, (1, 4, 8, 8), "; choose 3 channels, or build the model with input: {channels: 4}"),
        (ONE, (1, 8, 9, 3), "; put the channels second: image.movedim(-1, 1)"),
        (ONE, (3, 8, 8), "; add the batch: image[None]"),
        (ONE, (1, 3, 2, 8, 8), "; for images of several frames, build the model with input: {frames: 2}"),
        (ONE, (3,), ""),
        (ONE, (1, 3, 0, 8), ""),
        (FRAMES, (1, 3, 8, 8), "; put the frames together: torch.stack([…], 2) of 2 images"),
        (FRAMES, (3, 2, 8, 8), "; add the batch: image[None]"),
        (FRAMES, (1, 3, 3, 8, 8), "; for images of several frames, build the model with input: {frames: 3}"),
    ],
    ids=lambda value: None if isinstance(value, Graph) else str(value),
)
def test_an_image_of_another_shape_is_an_error_with_the_next_step(graph, shape, step):
    wanted = "b, 3, h, w" if graph is ONE else "b, 3, 2, h, w"
    message = f"image must be of shape ({wanted}) (got {shape}){step}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(graph)(torch.ones(shape))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            {"picture": torch.ones(1, 3, 8, 8)},
            "the model takes one tensor, or a dict with one named image (got a dict of 'picture')",
            id="another-name",
        ),
        pytest.param(
            [torch.ones(3, 8, 8)],
            "image must be a tensor of shape (b, 3, h, w) (got list); convert it: torch.stack(image)",
            id="list",
        ),
        pytest.param(
            {"image": np.ones((1, 3, 8, 8))},
            "image must be a tensor of shape (b, 3, h, w) (got ndarray); convert it: torch.from_numpy(image)",
            id="array",
        ),
        pytest.param({"image": None}, "image must be a tensor of shape (b, 3, h, w) (got NoneType)", id="nothing"),
    ],
)
def test_a_value_that_is_not_an_image_is_an_error(value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(ONE)(value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param(
            s2_and_s1((1, 4, 8, 8), (1, 3, 4, 4)),
            "s1 must be of shape (b, 2, h, w) (got (1, 3, 4, 4)); "
            "choose 2 channels, or build the model with input: {channels: 3}",
            id="channels",
        ),
        pytest.param(
            {"s2": torch.ones(1, 4, 8, 8)},
            "the model takes a dict of images named s2, s1 (got a dict of 's2')",
            id="one-missing",
        ),
        pytest.param(
            torch.ones(1, 4, 8, 8), "the model takes a dict of images named s2, s1 (got one tensor)", id="one-tensor"
        ),
        pytest.param(
            s2_and_s1((1, 4, 8, 12), (1, 2, 8, 12)),
            "s1 must have 4 × 6 pixels, to cover what s2 covers (got 8 × 12)",
            id="not-half-the-size",
        ),
        pytest.param(
            s2_and_s1((1, 4, 9, 8), (1, 2, 4, 4)),
            "s1 must have 4.5 × 4 pixels, to cover what s2 covers (got 4 × 4)",
            id="no-half",
        ),
        pytest.param(
            s2_and_s1((2, 4, 8, 8), (1, 2, 4, 4)),
            "s1 must have as many images as s2 (got 1 and 2)",
            id="one-for-all",
        ),
    ],
)
def test_several_images_that_do_not_match_are_an_error(images, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(TWO)(images)


def test_one_input_may_be_named():
    model, x = composer.build(ONE), torch.rand(1, 3, 5, 7)
    assert torch.equal(model({"image": x}).output, model(x).output)


def test_several_inputs_are_named_in_any_order():
    s2, s1 = torch.rand(2, 4, 6, 8), torch.rand(2, 2, 3, 4)
    out = composer.build(TWO)({"s1": s1, "s2": s2}).output
    assert list(out) == ["optical", "radar"]
    assert torch.equal(out["optical"], s2)
    assert out["radar"].shape == (2, 2, 6, 8)


def test_auxiliary_outputs_are_named_by_their_label():
    graph = composer.chain(
        echo(),
        SelectIndices(indices=[0, 0]),
        IdentityDecoder(),
        aux={"early": (IdentityDecoder(out_index=0),), "late": (IdentityDecoder(), SegmentationHead(num_classes=2))},
    )
    x = torch.rand(1, 3, 5, 7)
    out = composer.build(graph)(x)
    assert torch.equal(out.output, x)
    assert torch.equal(out.auxiliary_heads["early"], x)
    assert out.auxiliary_heads["late"].shape == (1, 2, 5, 7)
    assert composer.build(ONE)(x).auxiliary_heads == {}


CONVOLUTION = composer.chain(echo(sizes=SizeConstraint(multiple=4)), IdentityDecoder(), SegmentationHead(num_classes=2))
ON_CPU = "and the model's weights are torch.float32 on cpu; convert the image: "


def build_compiled(graph):
    torch.compiler.reset()
    return torch.compile(composer.build(graph), backend="eager")


@pytest.mark.parametrize(
    ("dtype", "build"),
    [(torch.uint8, composer.build), (torch.float64, composer.build), (torch.float64, build_compiled)],
    ids=["uint8", "float64", "float64-compiled"],
)
def test_another_dtype_than_that_of_the_weights_is_an_error(dtype, build):
    message = f"image is {dtype} on cpu, {ON_CPU}image.to(torch.float32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(CONVOLUTION)(torch.ones(1, 3, 5, 7, dtype=dtype))


def test_the_image_of_another_dtype_is_named():
    cover = Node("cover", SegmentationHead(num_classes=2), "radar")
    graph = Graph(inputs=TWO.inputs, nodes=[*TWO.nodes, cover], outputs=["optical", "cover"])
    message = f"s1 is torch.uint8 on cpu, {ON_CPU}s1.to(torch.float32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(graph)({"s2": torch.rand(1, 4, 8, 8), "s1": torch.ones(1, 2, 4, 4, dtype=torch.uint8)})


def test_an_error_of_a_module_is_raised_as_it_is():
    def fail(*_):
        raise RuntimeError("out of luck")

    model = composer.build(CONVOLUTION)
    model.get_submodule("head").register_forward_hook(fail)
    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        model(torch.rand(1, 3, 8, 8))


def test_an_encoder_of_ones_own_may_convert_its_image():
    class Scaled(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW.float() / 255

    graph = composer.chain(Custom(Scaled(), features=Feature(channels=3)), SegmentationHead(num_classes=2))
    model = composer.build(graph)
    x = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(model(x).output, model(x.float()).output)


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_cast", [True, False], ids=["already-cast", "float32"])
def test_autocast_takes_images_that_it_converts(is_cast, autocast):
    model = composer.build(CONVOLUTION)
    x = torch.rand(1, 3, 5, 7).to(autocast if is_cast else torch.float32)
    with torch.autocast("cpu", dtype=autocast):
        out = model(x).output
    assert out.dtype == autocast
    assert torch.allclose(out.float(), model(x.float()).output, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_model_may_have_any_floating_point_dtype(dtype):
    model = composer.build(CONVOLUTION)
    x = torch.rand(1, 3, 5, 7).to(dtype)
    expected = model(x.float()).output
    out = model.to(dtype)(x).output
    assert (out.dtype, tuple(out.shape)) == (dtype, (1, 2, 5, 7))
    assert torch.allclose(out.float(), expected, atol=2e-2)


@frozen
class Stacked(Encoder):
    """A registered encoder that takes several images, by position or by name."""


@composer.contract.register(Stacked)
def _(part, *images, **named):
    return (Feature(channels=sum(image[0].channels for image in [*images, *named.values()])),)


@composer.module.register(Stacked)
def _(part, *images, **named):
    return Stack()


class Stack(nn.Module):
    def forward(self, *images):
        named = [image for one in images if isinstance(one, dict) for image in one.values()]
        return torch.cat(named or images, dim=1)


STACKED_INPUTS = {"s2": Image(channels=4), "dem": Image(channels=1)}


@pytest.mark.parametrize("sources", [["s2", "dem"], {"a": "s2", "b": "dem"}], ids=["by position", "by name"])
def test_a_registered_encoder_gets_all_its_images(sources):
    graph = Graph(inputs=STACKED_INPUTS, nodes=[Node("both", Stacked(), sources)], outputs=["both"])
    images = {"s2": torch.rand(1, 4, 8, 8), "dem": torch.rand(1, 1, 8, 8)}
    assert composer.build(graph)(images).output.equal(torch.cat([*images.values()], dim=1))


def test_images_both_by_position_and_by_name_are_rejected():
    graph = Graph(inputs=STACKED_INPUTS, nodes=[Node("both", Stacked(), ["s2", ("b", "dem")])], outputs=["both"])
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph)
    assert str(caught.value) == (
        "error[inputs] both: Stacked takes its inputs by position or by name, and not both "
        "(got 1 by position, 1 by name).\n  fix: from: {b: dem}"
    )
