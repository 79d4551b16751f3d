"""Predictions: what an output means, and how it is drawn, with legends, colour bars and sheets of a sensible size."""

from io import BytesIO
from itertools import combinations

import numpy as np
import pytest

from composer.adapters.mmseg.parts import Mmseg
from composer.cli.images import PreparedInput
from composer.cli.run import COLOURS, Prediction, decode_predictions, draw_sheet
from composer.parts import (
    ASPPRegressionHead,
    ClassificationHead,
    IdentityDecoder,
    RegressionHead,
    ScalarHead,
    SegmentationHead,
)


def photo(height=30, width=40):
    pixels = np.arange(height * width * 3).reshape(height, width, 3) % 256
    return PreparedInput("photo", "photo.png", np.zeros(1), pixels.astype(np.uint8), ())


def draw(*predictions, image=None):
    """The axes of a sheet, drawn, without that of the input."""
    figure = draw_sheet([image or photo()], predictions)
    figure.savefig(BytesIO(), bbox_inches="tight")
    return figure.axes[1:]


ONE, THREE = np.array([[[-1.0, 2.0]]]), np.array([[[1.0, 0.0]], [[3.0, 0.0]], [[2.0, 9.0]]])
CLASSES = ["out: 2 of 3 classes: class 1 50.0%, class 2 50.0%"]
TWO_CLASSES = ["out: 2 of 2 classes: class 0 50.0%, class 1 50.0%"]
VALUE = ["out: -1 to 2, mean 0.5"]
VALUES = ["out[0]: 0 to 1, mean 0.5", "out[1]: 0 to 3, mean 1.5", "out[2]: 2 to 9, mean 5.5"]


@pytest.mark.parametrize(
    ("part", "output", "said"),
    [
        pytest.param(SegmentationHead(num_classes=3), THREE, CLASSES, id="largest score"),
        pytest.param(SegmentationHead(num_classes=1), ONE, TWO_CLASSES, id="one score, above 0 or not"),
        pytest.param(RegressionHead(), ONE, VALUE, id="values"),
        pytest.param(RegressionHead(num_outputs=3), THREE, VALUES, id="several values"),
        pytest.param(IdentityDecoder(), ONE, VALUE, id="one map without a head"),
        pytest.param(
            RegressionHead(), np.array([[[np.nan, 1]]]), ["out: 1 to 1, mean 1, 1 pixel not finite"], id="not finite"
        ),
        pytest.param(RegressionHead(), np.full((1, 2, 2), np.inf), ["out: 4 pixels not finite"], id="nothing finite"),
        pytest.param(
            ClassificationHead(num_classes=3),
            np.log([1.0, 6.0, 3.0]),
            ["out: class 1 60.0%, class 2 30.0%, class 0 10.0%"],
            id="softmax",
        ),
        pytest.param(
            ClassificationHead(num_classes=1),
            np.log([3.0]),
            ["out: class 1 75.0%, class 0 25.0%"],
            id="one score of an image",
        ),
        pytest.param(
            SegmentationHead(num_classes=1, final_act="Sigmoid"),
            np.array([[[0.2, 0.6], [0.3, 0.4]]]),
            ["out: 2 of 2 classes: class 0 75.0%, class 1 25.0%"],
            id="one probability, above a half or not",
        ),
        pytest.param(
            ClassificationHead(num_classes=3, final_act="Softmax"),
            np.array([0.1, 0.6, 0.3]),
            ["out: class 1 60.0%, class 2 30.0%, class 0 10.0%"],
            id="probabilities of an image",
        ),
        pytest.param(
            ClassificationHead(num_classes=1, final_act="Sigmoid"),
            np.array([0.75]),
            ["out: class 1 75.0%, class 0 25.0%"],
            id="one probability of an image",
        ),
        pytest.param(
            ScalarHead(num_outputs=2), np.array([0.5, 1234.56]), ["out: [0] 0.5, [1] 1235"], id="numbers of an image"
        ),
        pytest.param(
            IdentityDecoder(),
            np.arange(10.0),
            ["out: [0] 0, [1] 1, [2] 2, [3] 3, [4] 4, and 5 more"],
            id="vector without a head",
        ),
        pytest.param(
            ASPPRegressionHead(channels=4, out_channels=3), THREE, VALUES, id="values of a decoder that includes a head"
        ),
        pytest.param(Mmseg("FCNHead", num_classes=1), ONE, VALUE, id="values of mmseg"),
    ],
)
def test_what_an_output_means(part, output, said):
    assert [str(prediction) for prediction in decode_predictions("out", part, output)] == said


def test_many_classes_are_summed_up():
    assert str(Prediction("out", np.arange(8).reshape(2, 4), 9)) == (
        "out: 8 of 9 classes: class 0 12.5%, class 1 12.5%, class 2 12.5%, class 3 12.5%, class 4 12.5%, and 3 more"
    )


def test_a_class_map_has_the_colours_of_its_classes_and_a_legend_by_share():
    indices = np.array([[4, 4], [7, 70]])
    (axes,) = draw(Prediction("head", indices, 80))
    (image,) = axes.images
    assert image.get_interpolation() == "nearest"
    drawn = image.to_rgba(image.get_array())
    expected = [[COLOURS(index % COLOURS.N) for index in row] for row in indices]
    assert drawn.tolist() == pytest.approx(np.array(expected))
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["class 4 50.0%", "class 7 25.0%", "class 70 25.0%"]
    colours = [patch.get_facecolor() for patch in legend.get_patches()]
    assert colours == [COLOURS(index % COLOURS.N) for index in (4, 7, 70)]


def test_a_long_legend_has_the_largest_classes():
    (axes,) = draw(Prediction("head", np.arange(100).reshape(10, 10), 100))
    assert len(axes.get_legend().get_texts()) == 10
    assert axes.get_legend().get_title().get_text() == "10 of 100 classes"


def test_values_have_a_colour_bar_from_the_smallest_to_the_largest():
    axes, bar = draw(Prediction("height", np.array([[1.0, 2.0], [np.nan, 5.0]], np.float32)))
    assert bar.get_ylim() == (1, 5)
    assert axes.images[0].get_array().mask.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("value", [7.0, np.nan, 3e38])
def test_one_number_everywhere_can_be_drawn(value):
    assert len(draw(Prediction("height", np.full((2, 2), value, np.float32)))) == 2


@pytest.mark.parametrize(
    ("number", "width"), [(np.nan, 0), (np.inf, 0), (-np.inf, 0), (1e38, 1e38)], ids=["nan", "inf", "-inf", "huge"]
)
def test_the_first_numbers_of_an_image_are_bars_in_their_order(number, width):
    (axes,) = draw(Prediction("biomass", np.array([number, *range(30)])))
    assert [bar.get_width() for bar in axes.patches] == [width, *range(9)]
    assert axes.get_yticklabels()[1].get_text() == "[1] 0"


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2)])
def test_panels_stand_in_a_grid(count, columns, rows):
    grid = draw_sheet([photo()] * count, []).axes[0].get_gridspec()
    assert (grid.ncols, grid.nrows) == (columns, rows)


@pytest.mark.parametrize(("height", "width"), [(400, 600), (3, 20_000)], ids=str)
def test_nothing_overlaps_and_the_sheet_has_a_sensible_size(height, width):
    indices = np.arange(height * width).reshape(height, width) % 12
    predictions = [
        Prediction("a_name_of_a_node", indices, 12),
        Prediction("height", indices.astype(np.float32)),
        Prediction("scene", np.arange(20.0)),
    ]
    figure = draw_sheet([photo(height, width)], predictions)
    figure.savefig(BytesIO(), bbox_inches="tight")
    boxes = [axes.get_tightbbox().padded(-1) for axes in figure.axes[:4]]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(300 <= side <= 2800 for side in figure.get_size_inches() * figure.dpi)
