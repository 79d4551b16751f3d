"""How an image is brought to a size that the graph takes, and how the output comes back to the image's own pixels.

A network that returns what it is fed shows both: what it saw, and what is made of it.
"""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import composer
from composer.graph import Graph, Node
from composer.layouts import Feature, Image
from composer.parts.encoders import Custom
from composer.sizes import Padding, SizeConstraint


class Echo(nn.Module):
    """Returns every `stride`-th pixel of what it is fed, and remembers what that was."""

    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x_BCHW):
        self.fed = x_BCHW
        return x_BCHW[:, :, :: self.stride, :: self.stride]


def echoing(stride=1, sizes=SizeConstraint(multiple=8), channels=3, **options):  # noqa: B008, frozen
    encoder = Custom(Echo(stride), features=Feature(channels=channels, stride=stride), sizes=sizes, channels=channels)
    return composer.build(composer.chain(encoder, input=Image(channels=channels), **options))


def counting(*shape):
    """An image in which no two pixels are equal."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


TORCH_MODES = {"reflect": {"mode": "reflect"}, "replicate": {"mode": "replicate"}, "zeros": {"value": 0.0}}

ROOMY = [
    pytest.param((13, 21), (1, 2, 1, 2), id="odd-total"),
    pytest.param((16, 20), (2, 2, 0, 0), id="one-side-only"),
    pytest.param((10, 9), (3, 4, 3, 3), id="two-totals"),
    pytest.param((16, 24), (0, 0, 0, 0), id="nothing-to-do"),
]
"""(height, width), and the padding that makes multiples of 8 of them: left, right, top, bottom."""


@pytest.mark.parametrize("mode", TORCH_MODES)
@pytest.mark.parametrize(("size", "around"), ROOMY)
def test_pads_both_sides_as_torch_does(mode, size, around):
    model = echoing(padding=Padding(mode=mode))
    x = counting(2, 3, *size)
    model(x)
    assert torch.equal(model.encoder.fed, F.pad(x, around, **TORCH_MODES[mode]))


@pytest.mark.parametrize("mode", TORCH_MODES)
@pytest.mark.parametrize(("size", "around"), ROOMY)
def test_pads_the_end_as_torch_does(mode, size, around):
    model = echoing(padding=Padding(mode=mode, side="end"))
    x = counting(2, 3, *size)
    model(x)
    left, right, top, bottom = around
    assert torch.equal(model.encoder.fed, F.pad(x, (0, left + right, 0, top + bottom), **TORCH_MODES[mode]))


SHORT = [
    pytest.param("reflect", "both", "a", "aaaaaaaa", id="reflect-1"),
    pytest.param("reflect", "both", "ab", "bbbabaaa", id="reflect-2"),
    pytest.param("reflect", "both", "abc", "cbabcbaa", id="reflect-3"),
    pytest.param("reflect", "end", "a", "aaaaaaaa", id="reflect-end-1"),
    pytest.param("reflect", "end", "ab", "abaaaaaa", id="reflect-end-2"),
    pytest.param("reflect", "end", "abc", "abcbaaaa", id="reflect-end-3"),
    pytest.param("replicate", "both", "ab", "aaaabbbb", id="replicate-2"),
    pytest.param("replicate", "end", "abc", "abcccccc", id="replicate-end-3"),
    pytest.param("zeros", "both", "ab", "...ab...", id="zeros-2"),
    pytest.param("zeros", "end", "abc", "abc.....", id="zeros-end-3"),
]
"""A side that is shorter than its padding: mirrored as far as it goes, then its last entry repeated."""


@pytest.mark.parametrize(("mode", "side", "given", "expected"), SHORT)
@pytest.mark.parametrize("axis", [pytest.param(-2, id="rows"), pytest.param(-1, id="columns")])
def test_pads_beyond_what_the_image_can_mirror(mode, side, given, expected, axis):
    model = echoing(channels=1, padding=Padding(mode=mode, side=side))
    value = {".": 0.0, "a": 1.0, "b": 2.0, "c": 3.0}
    line = torch.tensor([value[letter] for letter in given])
    shape = [1, 1, 8, 8]
    shape[axis] = len(given)
    model(line.view(-1, 1).expand(shape) if axis == -2 else line.expand(shape))
    seen = model.encoder.fed.select(-1 if axis == -2 else -2, 0).flatten()
    assert seen.tolist() == [value[letter] for letter in expected]


ODD_SIZES = [
    pytest.param((1, 1), id="one-pixel"),
    pytest.param((1, 17), id="one-row"),
    pytest.param((7, 1), id="one-column"),
    pytest.param((13, 22), id="not-square"),
    pytest.param((8, 8), id="aligned"),
]


@pytest.mark.parametrize("side", ["both", "end"])
@pytest.mark.parametrize("mode", TORCH_MODES)
@pytest.mark.parametrize("size", ODD_SIZES)
def test_an_output_pixel_belongs_to_its_image_pixel(size, mode, side):
    x = counting(1, 3, *size)
    assert torch.equal(echoing(padding=Padding(mode=mode, side=side))(x).output, x)


CELLS = [
    pytest.param((6, 6), SizeConstraint(multiple=16), id="four-pixels-before"),
    pytest.param((17, 30), SizeConstraint(multiple=16), id="last-cells-incomplete"),
    pytest.param((1, 5), SizeConstraint(multiple=16), id="one-row"),
    pytest.param((16, 32), SizeConstraint(multiple=16), id="aligned"),
    pytest.param((5, 9), SizeConstraint(multiple=8, square=True), id="square"),
]


@pytest.mark.parametrize("side", ["both", "end"])
@pytest.mark.parametrize(("size", "sizes"), CELLS)
def test_without_rescaling_the_cells_of_the_image_are_kept(size, sizes, side):
    """A cell of stride 4 is pixel 4 * i of the image itself, and there are ceil(side / 4) of them."""
    x = counting(1, 3, *size)
    model = echoing(4, sizes, rescale=False, padding=Padding(side=side))
    assert torch.equal(model(x).output, x[:, :, ::4, ::4])


def test_rescaling_is_bilinear_between_the_centres_of_cells():
    x = counting(1, 3, 8, 16)
    expected = F.interpolate(x[:, :, ::4, ::4], size=(8, 16), mode="bilinear", align_corners=False)
    assert torch.equal(echoing(4)(x).output, expected)


def test_rescaled_output_is_cropped_where_the_image_stood():
    """10 rows become 16, three of them above; 20 columns become 24, two of them before."""
    x = counting(1, 3, 10, 20)
    padded = F.pad(x, (2, 2, 3, 3), mode="reflect")
    large = F.interpolate(padded[:, :, ::4, ::4], size=(16, 24), mode="bilinear", align_corners=False)
    assert torch.equal(echoing(4)(x).output, large[:, :, 3:13, 2:22])


def test_a_square_network_is_fed_squares():
    model = echoing(sizes=SizeConstraint(multiple=4, square=True))
    model(counting(1, 3, 5, 9))
    assert tuple(model.encoder.fed.shape) == (1, 3, 12, 12)


def test_a_network_of_one_size_is_fed_that():
    model = echoing(sizes=SizeConstraint(height=8, width=16))
    model(counting(1, 3, 5, 9))
    assert tuple(model.encoder.fed.shape) == (1, 3, 8, 16)


@pytest.mark.parametrize("size", [pytest.param((9, 16), id="rows"), pytest.param((8, 17), id="columns")])
def test_an_image_too_large_for_a_network_of_one_size_is_refused(size):
    message = (
        f"an image of {size[0]} × {size[1]} pixels is too large: the graph takes exactly 8 × 16. "
        "Crop or resize the image."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        echoing(sizes=SizeConstraint(height=8, width=16))(counting(1, 3, *size))


def test_inputs_of_two_resolutions_are_padded_alike():
    """Six pixels are missing: two of them go before, not three, because one pixel of the coarse input covers two."""
    nodes = [Node("fine_map", custom(), "fine"), Node("coarse_map", custom(), "coarse")]
    inputs = {"fine": Image(channels=1), "coarse": Image(channels=1, stride=2)}
    model = composer.build(Graph(inputs=inputs, nodes=nodes, outputs=["fine_map", "coarse_map"], rescale=False))
    fine, coarse = counting(1, 1, 10, 16), counting(1, 1, 5, 8)
    out = model({"fine": fine, "coarse": coarse}).output
    assert torch.equal(model.fine_map.fed, F.pad(fine, (0, 0, 2, 4), mode="reflect"))
    assert torch.equal(model.coarse_map.fed, F.pad(coarse, (0, 0, 1, 2), mode="reflect"))
    assert torch.equal(out["fine_map"], fine)
    assert torch.equal(out["coarse_map"], coarse)


def custom():
    return Custom(Echo(), features=Feature(channels=1), sizes=SizeConstraint(multiple=8), channels=1)


def test_the_image_is_not_written_to():
    x = counting(1, 3, 13, 21)
    before = x.clone()
    echoing()(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kept", [(5, 9), (6, 8), (13, 21)], ids=["odd", "even", "all"])
@pytest.mark.parametrize("size", [(13, 21), (14, 22), (16, 24)], ids=["odd-padding", "even-padding", "no-padding"])
def test_a_crop_is_the_centre_of_the_padded_output(size, kept):
    model = echoing(crop=kept)
    x = counting(1, 3, *size)

    out = model(x).output

    padded = model.encoder.fed
    top, left = ((of - side) // 2 for of, side in zip(padded.shape[-2:], kept, strict=True))
    assert torch.equal(out, padded[..., top : top + kept[0], left : left + kept[1]])
    assert model.typed.shape("encoder", *size) == ("b", 3, *kept)


def test_a_crop_where_all_padding_comes_after_is_the_centre_of_the_image():
    model = echoing(crop=(4, 6), padding=Padding(side="end"))
    x = counting(1, 3, 9, 13)
    assert torch.equal(model(x).output, x[..., 2:6, 3:9])


TOO_SMALL = (
    "an image of 8 × 30 pixels is smaller than the crop of its output, 16 × 16. Resize the image or leave crop out."
)


def test_an_image_smaller_than_the_crop_is_refused_by_the_model_and_by_the_typed_graph():
    model = echoing(crop=(16, 16))
    with pytest.raises(ValueError, match=f"^{re.escape(TOO_SMALL)}$"):
        model(counting(1, 3, 8, 30))
    with pytest.raises(ValueError, match=f"^{re.escape(TOO_SMALL)}$"):
        model.typed.shape("encoder", 8, 30)


NOT_RESCALED = (
    "error[value] crop: crop keeps the centre of output at the image's size, and no output is at it.\n  fix:"
)


@pytest.mark.parametrize(
    ("parts", "options", "fix"),
    [
        pytest.param([composer.IdentityDecoder()], {"rescale": False}, "rescale: true", id="not-rescaled"),
        pytest.param([composer.IdentityDecoder(), composer.ClassificationHead(num_classes=2)], {}, "leave crop out",
                     id="vector"),
    ],
)  # fmt: skip
def test_a_crop_of_output_that_is_not_at_the_images_size_is_refused(parts, options, fix):
    encoder = Custom(Echo(), features=Feature(channels=3, stride=1))
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(encoder, *parts, crop=(4, 4), **options))
    assert str(caught.value) == f"{NOT_RESCALED} {fix}"


def test_padding_to_a_multiple_beside_what_the_graph_takes():
    model = echoing(sizes=SizeConstraint(multiple=4), padding=Padding(multiple=6))
    x = counting(1, 3, 10, 13)
    out = model(x).output
    assert model.typed.sizes == SizeConstraint(multiple=12)
    assert model.encoder.fed.shape == (1, 3, 12, 24)
    assert torch.equal(out, x)


def test_padding_to_a_multiple_that_a_fixed_size_is_none_of_is_refused():
    encoder = Custom(Echo(), features=Feature(channels=3, stride=1), sizes=SizeConstraint(height=30, width=30))
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(encoder, padding=Padding(multiple=28)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: padding takes multiple of 28, at least 28, any shape; "
        "encoder takes exactly 30 × 30.\n"
        "  fix: change the input's size or the encoder's img_size to one that both take"
    )
