"""What a model takes and what it returns: one image or several, one output or several, and what it says of others."""

import re

import numpy as np
import pytest
import torch
from attrs import frozen
from torch import nn
from torch.utils import _pytree as pytree

import composer
from composer.graph import Graph, Node
from composer.layouts import Feature, Image
from composer.parts.base import Encoder
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Custom
from composer.parts.heads import SegmentationHead
from composer.parts.necks import SelectIndices
from composer.sizes import Padding, SizeConstraint


def echo(channels=3, sizes=SizeConstraint()):  # noqa: B008, frozen
    """An encoder that gives what it is fed."""
    return Custom(nn.Identity(), features=Feature(channels=channels), channels=channels, sizes=sizes)


ONE = composer.chain(echo())
TWO = Graph(
    inputs={"s2": Image(channels=4), "s1": Image(channels=2, stride=2)},
    nodes=[Node("optical", echo(4), "s2"), Node("radar", echo(2), "s1")],
    outputs=["optical", "radar"],
)


@frozen
class LastFrame(Encoder):
    """An encoder of one's own that takes frames."""


@composer.contract.register(LastFrame)
def _(part, image):
    return (Feature(channels=image[0].channels),)


class TakesLastFrame(nn.Module):
    def forward(self, x_BCTHW):
        return x_BCTHW[:, :, -1]


@composer.module.register(LastFrame)
def _(part, image):
    return TakesLastFrame()


FRAMES = composer.chain(LastFrame(), input=Image(channels=3, frames=2))


WRONG = [
    pytest.param(
        ONE,
        torch.ones(1, 4, 8, 8),
        "image must be of shape (b, 3, h, w) (got (1, 4, 8, 8)); "
        "choose 3 channels, or build the model with input: {channels: 4}",
        id="channels",
    ),
    pytest.param(
        ONE,
        torch.ones(1, 8, 9, 3),
        "image must be of shape (b, 3, h, w) (got (1, 8, 9, 3)); put the channels second: image.movedim(-1, 1)",
        id="channels-last",
    ),
    pytest.param(
        ONE,
        torch.ones(3, 8, 8),
        "image must be of shape (b, 3, h, w) (got (3, 8, 8)); add the batch: image[None]",
        id="no-batch",
    ),
    pytest.param(
        ONE,
        torch.ones(1, 3, 2, 8, 8),
        "image must be of shape (b, 3, h, w) (got (1, 3, 2, 8, 8)); "
        "for images of several frames, build the model with input: {frames: 2}",
        id="frames",
    ),
    pytest.param(
        FRAMES,
        torch.ones(1, 3, 8, 8),
        "image must be of shape (b, 3, 2, h, w) (got (1, 3, 8, 8)); "
        "put the frames together: torch.stack([…], 2) of 2 images",
        id="no-frames",
    ),
    pytest.param(
        FRAMES,
        torch.ones(3, 2, 8, 8),
        "image must be of shape (b, 3, 2, h, w) (got (3, 2, 8, 8)); add the batch: image[None]",
        id="frames-without-batch",
    ),
    pytest.param(
        FRAMES,
        torch.ones(1, 3, 3, 8, 8),
        "image must be of shape (b, 3, 2, h, w) (got (1, 3, 3, 8, 8)); "
        "for images of several frames, build the model with input: {frames: 3}",
        id="too-many-frames",
    ),
    pytest.param(
        FRAMES,
        torch.ones(1, 2, 3, 8, 8),
        "image must be of shape (b, 3, 2, h, w) (got (1, 2, 3, 8, 8)); "
        "choose 3 channels, or build the model with input: {channels: 2}",
        id="frames-first",
    ),
    pytest.param(
        ONE,
        {"picture": torch.ones(1, 3, 8, 8)},
        "the model takes one tensor, or a dict with one named image (got a dict of 'picture')",
        id="another-name",
    ),
    pytest.param(
        ONE,
        [torch.ones(3, 8, 8)],
        "image must be a tensor of shape (b, 3, h, w) (got list); convert it: torch.stack(image)",
        id="list",
    ),
    pytest.param(
        ONE,
        np.ones((1, 3, 8, 8)),
        "image must be a tensor of shape (b, 3, h, w) (got ndarray); convert it: torch.from_numpy(image)",
        id="array",
    ),
    pytest.param(
        ONE, {"image": None}, "image must be a tensor of shape (b, 3, h, w) (got NoneType)", id="nothing-named"
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 8, 8), "s1": np.ones((1, 2, 4, 4))},
        "s1 must be a tensor of shape (b, 2, h, w) (got ndarray); convert it: torch.from_numpy(s1)",
        id="named-array",
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 8, 8), "s1": torch.ones(1, 3, 4, 4)},
        "s1 must be of shape (b, 2, h, w) (got (1, 3, 4, 4)); "
        "choose 2 channels, or build the model with input: {channels: 3}",
        id="named-channels",
    ),
    pytest.param(ONE, torch.ones(3), "image must be of shape (b, 3, h, w) (got (3,))", id="one-axis"),
    pytest.param(ONE, torch.ones(1, 3, 0, 8), "image must be of shape (b, 3, h, w) (got (1, 3, 0, 8))", id="no-rows"),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 8, 8)},
        "the model takes a dict of images named s2, s1 (got a dict of 's2')",
        id="one-missing",
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 8, 8), "s1": torch.ones(1, 2, 4, 4), "dem": torch.ones(1, 1, 8, 8)},
        "the model takes a dict of images named s2, s1 (got a dict of 's2', 's1', 'dem')",
        id="one-too-many",
    ),
    pytest.param(
        TWO, torch.ones(1, 4, 8, 8), "the model takes a dict of images named s2, s1 (got one tensor)", id="one-tensor"
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 8, 12), "s1": torch.ones(1, 2, 8, 12)},
        "s1 must have 4 × 6 pixels, to cover what s2 covers (got 8 × 12)",
        id="not-half-the-size",
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(1, 4, 9, 8), "s1": torch.ones(1, 2, 4, 4)},
        "s1 must have 4.5 × 4 pixels, to cover what s2 covers (got 4 × 4)",
        id="no-half",
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(2, 4, 8, 8), "s1": torch.ones(3, 2, 4, 4)},
        "s1 must have as many images as s2 (got 3 and 2)",
        id="another-batch",
    ),
    pytest.param(
        TWO,
        {"s2": torch.ones(2, 4, 8, 8), "s1": torch.ones(1, 2, 4, 4)},
        "s1 must have as many images as s2 (got 1 and 2)",
        id="one-for-all",
    ),
]


@pytest.mark.parametrize(("graph", "given", "message"), WRONG)
def test_says_what_it_takes(graph, given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(graph)(given)


def test_one_input_is_given_as_it_is_or_by_name():
    model = composer.build(ONE)
    x = torch.rand(1, 3, 5, 7)
    assert torch.equal(model({"image": x}).output, model(x).output)


def test_several_inputs_are_given_by_name_in_any_order():
    s2, s1 = torch.rand(2, 4, 6, 8), torch.rand(2, 2, 3, 4)
    out = composer.build(TWO)({"s1": s1, "s2": s2}).output
    assert list(out) == ["optical", "radar"]
    assert torch.equal(out["optical"], s2)
    assert out["radar"].shape == (2, 2, 6, 8)


def test_the_first_input_need_not_be_the_finest():
    graph = Graph(
        inputs={"s1": Image(channels=2, stride=2), "s2": Image(channels=4)},
        nodes=[Node("optical", echo(4, SizeConstraint(multiple=4)), "s2"), Node("radar", echo(2), "s1")],
        outputs=["optical", "radar"],
    )
    s2 = torch.rand(1, 4, 6, 10)
    out = composer.build(graph)({"s1": torch.rand(1, 2, 3, 5), "s2": s2}).output
    assert torch.equal(out["optical"], s2)


def test_frames_are_an_axis_of_the_image():
    x = torch.rand(1, 3, 2, 5, 7)
    assert torch.equal(composer.build(FRAMES)(x).output, x[:, :, 1])


def test_frames_are_padded_like_any_image():
    nodes = [Node("last", LastFrame(), "image"), Node("grid", echo(sizes=SizeConstraint(multiple=4)), "flat")]
    inputs = {"image": Image(channels=3, frames=2), "flat": Image(channels=3)}
    model = composer.build(Graph(inputs=inputs, nodes=nodes, outputs=["last", "grid"], padding=Padding(mode="zeros")))
    x = torch.rand(1, 3, 2, 5, 7)
    assert torch.equal(model({"image": x, "flat": x[:, :, 0]}).output["last"], x[:, :, 1])


def test_auxiliary_outputs_leave_by_their_label():
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
    assert {label: tuple(y.shape) for label, y in out.auxiliary_heads.items()} == {
        "early": (1, 3, 5, 7),
        "late": (1, 2, 5, 7),
    }


def test_without_auxiliary_heads_there_is_an_empty_dict():
    assert composer.build(ONE)(torch.rand(1, 3, 5, 7)).auxiliary_heads == {}


def test_what_is_returned_is_a_pytree():
    out = composer.build(TWO)({"s2": torch.rand(1, 4, 6, 8), "s1": torch.rand(1, 2, 3, 4)})
    leaves, structure = pytree.tree_flatten(out)
    again = pytree.tree_unflatten(leaves, structure)
    assert type(again) is composer.ModelOutput
    assert list(again.output) == ["optical", "radar"]


CONVOLUTION = composer.chain(echo(sizes=SizeConstraint(multiple=4)), IdentityDecoder(), SegmentationHead(num_classes=2))
NETWORK = composer.chain(composer.Timm("test_resnet.r160_in1k"), IdentityDecoder(), SegmentationHead(num_classes=2))
BOTH = Graph(
    inputs={"s2": Image(channels=4), "s1": Image(channels=2)},
    nodes=[
        Node("optical", echo(4), "s2"),
        Node("radar", echo(2), "s1"),
        Node("cover", SegmentationHead(num_classes=2), "optical"),
        Node("height", SegmentationHead(num_classes=2), "radar"),
    ],
    outputs=["cover", "height"],
)
ON_CPU = "and the model's weights are torch.float32 on cpu; convert the image: "


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(
            torch.ones(1, 3, 8, 8, dtype=torch.uint8),
            f"image is torch.uint8 on cpu, {ON_CPU}image.to(torch.float32)",
            id="uint8",
        ),
        pytest.param(
            torch.ones(1, 3, 5, 7, dtype=torch.int16),
            f"image is torch.int16 on cpu, {ON_CPU}image.to(torch.float32)",
            id="int16-padded",
        ),
        pytest.param(
            torch.ones(1, 3, 8, 8, dtype=torch.float64),
            f"image is torch.float64 on cpu, {ON_CPU}image.to(torch.float32)",
            id="float64",
        ),
        pytest.param(
            torch.ones(1, 3, 8, 8, dtype=torch.float16),
            f"image is torch.float16 on cpu, {ON_CPU}image.to(torch.float32)",
            id="float16",
        ),
    ],
)
def test_a_dtype_that_the_weights_do_not_have_names_both(image, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(CONVOLUTION)(image)


@pytest.mark.parametrize(
    ("dtype", "step"), [(torch.float32, '"meta"'), (torch.uint8, '"meta", torch.float32')], ids=["device", "both"]
)
def test_a_device_that_the_weights_are_not_on_names_both(dtype, step):
    message = (
        f"image is {dtype} on cpu, and the model's weights are torch.float32 on meta; "
        f"convert the image: image.to({step})"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(NETWORK, device="meta")(torch.ones(1, 3, 64, 64, dtype=dtype))


def test_a_named_image_of_another_dtype_is_named():
    message = f"s1 is torch.uint8 on cpu, {ON_CPU}s1.to(torch.float32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(BOTH)({"s2": torch.rand(1, 4, 8, 8), "s1": torch.ones(1, 2, 8, 8, dtype=torch.uint8)})


def test_a_compiled_model_names_both_too():
    torch.compiler.reset()
    message = f"image is torch.float64 on cpu, {ON_CPU}image.to(torch.float32)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        torch.compile(composer.build(CONVOLUTION), backend="eager")(torch.rand(1, 3, 8, 8, dtype=torch.float64))


def test_an_error_of_a_module_stays_its_own():
    def fail(*_):
        raise RuntimeError("out of luck")

    model = composer.build(CONVOLUTION)
    model.get_submodule("head").register_forward_hook(fail)
    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        model(torch.rand(1, 3, 8, 8))


def test_an_encoder_of_ones_own_may_convert_what_it_takes():
    class Scaled(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW.float() / 255

    graph = composer.chain(Custom(Scaled(), features=Feature(channels=3)), SegmentationHead(num_classes=2))
    model = composer.build(graph)
    x = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(model(x).output, model(x.float()).output)


@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("is_cast", [True, False], ids=["already-cast", "float32"])
def test_autocast_takes_what_it_converts(is_cast, autocast):
    model = composer.build(CONVOLUTION)
    x = torch.rand(1, 3, 5, 7).to(autocast if is_cast else torch.float32)
    with torch.autocast("cpu", dtype=autocast):
        out = model(x).output
    assert out.dtype == autocast
    assert torch.allclose(out.float(), model(x.float()).output, atol=2e-2)


def test_autocast_does_not_convert_float64():
    message = f"image is torch.float64 on cpu, {ON_CPU}image.to(torch.float32)"
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        composer.build(CONVOLUTION)(torch.rand(1, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_any_floating_type_goes_through(dtype):
    model = composer.build(CONVOLUTION)
    x = torch.rand(1, 3, 5, 7).to(dtype)
    expected = model(x.float()).output
    out = model.to(dtype)(x).output
    assert (out.dtype, tuple(out.shape)) == (dtype, (1, 2, 5, 7))
    assert torch.allclose(out.float(), expected, atol=2e-2)


@frozen
class Stacked(Encoder):
    """An encoder of one's own that takes several images, by position or by name."""


@composer.contract.register(Stacked)
def _(part, *images, **named):
    given = [*images, *named.values()]
    return (Feature(channels=sum(image[0].channels for image in given)),)


@composer.module.register(Stacked)
def _(part, *images, **named):
    return Stacking()


class Stacking(nn.Module):
    def forward(self, *images):
        named = [image for one in images if isinstance(one, dict) for image in one.values()]
        return torch.cat(named or images, dim=1)


@pytest.mark.parametrize("inputs", [["s2", "dem"], {"a": "s2", "b": "dem"}], ids=["by position", "by name"])
def test_an_encoder_of_ones_own_gets_all_its_images(inputs):
    graph = Graph(
        inputs={"s2": Image(channels=4), "dem": Image(channels=1)},
        nodes=[Node("both", Stacked(), inputs)],
        outputs=["both"],
    )
    images = {"s2": torch.rand(1, 4, 8, 8), "dem": torch.rand(1, 1, 8, 8)}
    output = composer.build(graph)(images).output
    assert output.equal(torch.cat([*images.values()], dim=1))


def test_images_by_position_and_by_name_are_too_many_ways():
    graph = Graph(
        inputs={"s2": Image(channels=4), "dem": Image(channels=1)},
        nodes=[Node("both", Stacked(), ["s2", ("b", "dem")])],
        outputs=["both"],
    )
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(graph)
    assert str(caught.value) == (
        "error[inputs] both: Stacked takes its inputs by position or by name, and not both "
        "(got 1 by position, 1 by name).\n  fix: from: {b: dem}"
    )
