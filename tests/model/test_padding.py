"""How an image is padded to a size that the graph takes, and how the output is cropped to the image's own pixels.

A network that returns its image shows both: what it gets, and what is made of it.
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
    """Returns every `stride`-th pixel of its image, and keeps the image in `fed`."""

    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x_BCHW):
        self.fed = x_BCHW
        return x_BCHW[:, :, :: self.stride, :: self.stride]


def echo(stride=1, sizes=SizeConstraint(multiple=8), channels=3):  # noqa: B008, frozen
    return Custom(Echo(stride), features=Feature(channels=channels, stride=stride), sizes=sizes, channels=channels)


def build(stride=1, sizes=SizeConstraint(multiple=8), channels=3, **options):  # noqa: B008, frozen
    encoder = echo(stride, sizes, channels)
    return composer.build(composer.chain(encoder, input=Image(channels=channels), **options))


def count_up(*shape):
    """An image in which no two pixels are equal."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape)


TORCH_MODES = {"reflect": {"mode": "reflect"}, "replicate": {"mode": "replicate"}, "zeros": {"value": 0.0}}


@pytest.mark.parametrize("side", ["both", "end"])
@pytest.mark.parametrize("mode", TORCH_MODES)
@pytest.mark.parametrize(
    ("size", "around"),
    [
        pytest.param((13, 21), (1, 2, 1, 2), id="odd-total"),
        pytest.param((16, 20), (2, 2, 0, 0), id="one-side-only"),
        pytest.param((10, 9), (3, 4, 3, 3), id="two-totals"),
        pytest.param((16, 24), (0, 0, 0, 0), id="nothing-to-do"),
    ],
)
def test_an_image_is_padded_as_by_torch(mode, size, around, side):
    """`around` makes multiples of 8 of the size: left, right, top, bottom."""
    model, x = build(padding=Padding(mode=mode, side=side)), count_up(2, 3, *size)
    out = model(x).output
    left, right, top, bottom = around
    padding = around if side == "both" else (0, left + right, 0, top + bottom)
    assert torch.equal(model.encoder.fed, F.pad(x, padding, **TORCH_MODES[mode]))
    assert torch.equal(out, x)


@pytest.mark.parametrize(
    ("mode", "side", "line", "expected"),
    [
        ("reflect", "both", "a", "aaaaaaaa"),
        ("reflect", "both", "ab", "bbbabaaa"),
        ("reflect", "both", "abc", "cbabcbaa"),
        ("reflect", "end", "abc", "abcbaaaa"),
        ("replicate", "both", "ab", "aaaabbbb"),
        ("zeros", "both", "ab", "...ab..."),
        ("zeros", "end", "abc", "abc....."),
    ],
)
@pytest.mark.parametrize("axis", [pytest.param(-2, id="rows"), pytest.param(-1, id="columns")])
def test_an_image_shorter_than_its_padding_is_mirrored_as_far_as_it_goes(mode, side, line, expected, axis):
    """Then its last entry is repeated."""
    model = build(channels=1, padding=Padding(mode=mode, side=side))
    value = {".": 0.0, "a": 1.0, "b": 2.0, "c": 3.0}
    pixels = torch.tensor([value[letter] for letter in line])
    shape = [1, 1, 8, 8]
    shape[axis] = len(line)
    x = pixels.view(-1, 1).expand(shape) if axis == -2 else pixels.expand(shape)
    assert torch.equal(model(x).output, x)
    assert model.encoder.fed.select(-1 if axis == -2 else -2, 0).flatten().tolist() == [value[one] for one in expected]


@pytest.mark.parametrize("side", ["both", "end"])
@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        pytest.param((6, 6), SizeConstraint(multiple=16), id="four-pixels-before"),
        pytest.param((17, 30), SizeConstraint(multiple=16), id="last-cells-incomplete"),
        pytest.param((1, 5), SizeConstraint(multiple=16), id="one-row"),
        pytest.param((16, 32), SizeConstraint(multiple=16), id="aligned"),
        pytest.param((5, 9), SizeConstraint(multiple=8, square=True), id="square"),
    ],
)
def test_without_rescaling_the_cells_of_the_image_are_kept(size, sizes, side):
    """A cell of stride 4 is pixel 4 * i of the image itself, and there are ceil(side / 4) of them."""
    x = count_up(1, 3, *size)
    model = build(4, sizes, rescale=False, padding=Padding(side=side))
    assert torch.equal(model(x).output, x[:, :, ::4, ::4])


def test_output_is_resized_by_bilinear_interpolation_and_cropped_to_the_image():
    """10 rows become 16, three of them above; 20 columns become 24, two of them before."""
    x = count_up(1, 3, 10, 20)
    padded = F.pad(x, (2, 2, 3, 3), mode="reflect")
    large = F.interpolate(padded[:, :, ::4, ::4], size=(16, 24), mode="bilinear", align_corners=False)
    assert torch.equal(build(4)(x).output, large[:, :, 3:13, 2:22])


@pytest.mark.parametrize(
    ("sizes", "padding", "fed"),
    [
        pytest.param(SizeConstraint(multiple=4, square=True), Padding(), (12, 12), id="square"),
        pytest.param(SizeConstraint(height=8, width=16), Padding(), (8, 16), id="fixed"),
        pytest.param(SizeConstraint(multiple=4), Padding(multiple=6), (12, 12), id="multiple of both"),
    ],
)
def test_an_image_is_padded_to_the_next_size_that_the_graph_takes(sizes, padding, fed):
    model, x = build(sizes=sizes, padding=padding), count_up(1, 3, 5, 9)
    assert torch.equal(model(x).output, x)
    assert tuple(model.encoder.fed.shape) == (1, 3, *fed)


@pytest.mark.parametrize("size", [pytest.param((9, 16), id="rows"), pytest.param((8, 17), id="columns")])
def test_an_image_larger_than_a_fixed_size_is_an_error(size):
    message = (
        f"an image of {size[0]} × {size[1]} pixels is too large: the graph takes exactly 8 × 16. "
        "Crop or resize the image."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build(sizes=SizeConstraint(height=8, width=16))(count_up(1, 3, *size))


def test_inputs_of_two_resolutions_are_padded_alike():
    """Six pixels are missing: two of them go before, not three, because one pixel of the coarse input covers two."""
    nodes = [Node("fine_map", echo(channels=1), "fine"), Node("coarse_map", echo(channels=1), "coarse")]
    inputs = {"fine": Image(channels=1), "coarse": Image(channels=1, stride=2)}
    model = composer.build(Graph(inputs=inputs, nodes=nodes, outputs=["fine_map", "coarse_map"], rescale=False))
    fine, coarse = count_up(1, 1, 10, 16), count_up(1, 1, 5, 8)
    out = model({"fine": fine, "coarse": coarse}).output
    assert torch.equal(model.fine_map.fed, F.pad(fine, (0, 0, 2, 4), mode="reflect"))
    assert torch.equal(model.coarse_map.fed, F.pad(coarse, (0, 0, 1, 2), mode="reflect"))
    assert torch.equal(out["fine_map"], fine)
    assert torch.equal(out["coarse_map"], coarse)


@pytest.mark.parametrize("kept", [(5, 9), (6, 8), (13, 21)], ids=["odd", "even", "all"])
@pytest.mark.parametrize("size", [(13, 21), (14, 22), (16, 24)], ids=["odd-padding", "even-padding", "no-padding"])
def test_a_crop_is_the_center_of_the_padded_output(size, kept):
    model = build(crop=kept)
    out = model(count_up(1, 3, *size)).output
    padded = model.encoder.fed
    top, left = ((of - side) // 2 for of, side in zip(padded.shape[-2:], kept, strict=True))
    assert torch.equal(out, padded[..., top : top + kept[0], left : left + kept[1]])
    assert model.typed.shape("encoder", *size) == ("b", 3, *kept)


def test_a_crop_with_all_padding_at_the_end_is_the_center_of_the_image():
    x = count_up(1, 3, 9, 13)
    assert torch.equal(build(crop=(4, 6), padding=Padding(side="end"))(x).output, x[..., 2:6, 3:9])


def test_an_image_smaller_than_the_crop_is_an_error():
    model = build(crop=(16, 16))
    message = re.escape(
        "an image of 8 × 30 pixels is smaller than the crop of its output, 16 × 16. Resize the image or leave crop out."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        model(count_up(1, 3, 8, 30))
    with pytest.raises(ValueError, match=f"^{message}$"):
        model.typed.shape("encoder", 8, 30)


@pytest.mark.parametrize(
    ("parts", "options", "fix"),
    [
        pytest.param([], {"rescale": False}, "rescale: true", id="not-rescaled"),
        pytest.param([composer.ClassificationHead(num_classes=2)], {}, "leave crop out", id="vector"),
        pytest.param([composer.EmbeddingHead()], {}, "leave crop out", id="embedding"),
    ],
)
def test_a_crop_of_output_that_does_not_have_the_size_of_the_image_is_rejected(parts, options, fix):
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(echo(), composer.IdentityDecoder(), *parts, crop=(4, 4), **options))
    assert str(caught.value) == (
        f"error[value] crop: crop keeps the centre of output at the image's size, and no output is at it.\n  fix: {fix}"
    )


def test_padding_to_a_multiple_that_excludes_a_fixed_size_is_rejected():
    with pytest.raises(composer.SpecError) as caught:
        composer.infer(composer.chain(echo(sizes=SizeConstraint(height=30, width=30)), padding=Padding(multiple=28)))
    assert str(caught.value) == (
        "error[sizes] encoder: no image size suits both: padding takes multiple of 28, at least 28, any shape; "
        "encoder takes exactly 30 × 30.\n"
        "  fix: change the input's size or the encoder's img_size to one that both take"
    )
