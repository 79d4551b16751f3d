"""Drawn predictions: the right colours at the right places, legends that name them, and sheets of a sensible size."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from composer.adapters.mmseg.parts import Mmseg
from composer.cli.pictures import (
    ClassMap,
    InputImage,
    ValueMap,
    Vector,
    decode_predictions,
    draw_sheet,
    get_class_colours,
)
from composer.parts import (
    ASPPRegressionHead,
    ASPPSegmentationHead,
    ClassificationHead,
    IdentityDecoder,
    LinearDecoder,
    RegressionHead,
    ScalarHead,
    SegmentationHead,
)


def draw(panel, height=300, width=400):
    """The axes of a sheet of one panel, drawn."""
    figure = draw_sheet([panel], height, width)
    figure.canvas.draw()
    return figure.axes


def read_legend(axes):
    """The colours and the lines of the legend."""
    legend = axes.get_legend()
    colours = [
        tuple(np.round(np.array(patch.get_facecolor()) * 255)[:3].astype(int).tolist())
        for patch in legend.get_patches()
    ]
    return list(zip(colours, [text.get_text() for text in legend.get_texts()], strict=True))


class TestColours:
    def test_classes_look_different(self):
        colours = get_class_colours(np.arange(20)).astype(float)
        assert min(np.linalg.norm(one - other) for one, other in combinations(colours, 2)) > 25
        assert len(np.unique(get_class_colours(np.arange(60)), axis=0)) > 50

    def test_a_class_keeps_its_colour_whatever_else_is_there(self):
        assert get_class_colours([[0, 3, 77]])[0, 1].tolist() == get_class_colours(3).tolist()


class TestPredictions:
    one, three = np.array([[[-1.0, 2.0]]]), np.array([[[1.0, 0.0]], [[3.0, 0.0]], [[2.0, 9.0]]])

    @pytest.mark.parametrize(
        ("part", "output", "said"),
        [
            pytest.param(
                SegmentationHead(num_classes=3),
                three,
                ["out: 2 of 3 classes: class 1 50.0%, class 2 50.0%"],
                id="largest score",
            ),
            pytest.param(
                LinearDecoder(num_classes=3, upsampling_size=2),
                three,
                ["out: 2 of 3 classes: class 1 50.0%, class 2 50.0%"],
                id="a decoder that needs no head",
            ),
            pytest.param(
                SegmentationHead(num_classes=1),
                one,
                ["out: 2 of 2 classes: class 0 50.0%, class 1 50.0%"],
                id="one score, above 0 or not",
            ),
            pytest.param(RegressionHead(), one, ["out: -1 to 2, mean 0.5"], id="values"),
            pytest.param(
                RegressionHead(num_outputs=3),
                three,
                ["out[0]: 0 to 1, mean 0.5", "out[1]: 0 to 3, mean 1.5", "out[2]: 2 to 9, mean 5.5"],
                id="several values",
            ),
            pytest.param(IdentityDecoder(), one, ["out: -1 to 2, mean 0.5"], id="one map without a head"),
            pytest.param(
                RegressionHead(),
                np.array([[[np.nan, 1.0]]]),
                ["out: 1 to 1, mean 1, 1 pixel not finite"],
                id="not finite",
            ),
            pytest.param(
                RegressionHead(), np.full((1, 2, 2), np.inf), ["out: 4 pixels not finite"], id="nothing finite"
            ),
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
                id="one score for an image",
            ),
            pytest.param(
                ScalarHead(num_outputs=2),
                np.array([0.5, 1234.56]),
                ["out: [0] 0.5, [1] 1235"],
                id="numbers for an image",
            ),
            pytest.param(
                IdentityDecoder(),
                np.arange(10.0),
                ["out: [0] 0, [1] 1, [2] 2, [3] 3, [4] 4, and 5 more"],
                id="a vector without a head",
            ),
            pytest.param(
                ASPPRegressionHead(channels=4, out_channels=3),
                three,
                ["out[0]: 0 to 1, mean 0.5", "out[1]: 0 to 3, mean 1.5", "out[2]: 2 to 9, mean 5.5"],
                id="values of a decoder that needs no head",
            ),
            pytest.param(
                ASPPSegmentationHead(channels=4, num_classes=1),
                one,
                ["out: 2 of 2 classes: class 0 50.0%, class 1 50.0%"],
                id="one score of a decoder that needs no head",
            ),
            pytest.param(
                Mmseg("FCNHead", num_classes=1), one, ["out: -1 to 2, mean 0.5"], id="values of a head of mmseg's"
            ),
            pytest.param(
                Mmseg("FCNHead", num_classes=3),
                three,
                ["out: 2 of 3 classes: class 1 50.0%, class 2 50.0%"],
                id="classes of a head of mmseg's",
            ),
            pytest.param(
                ASPPSegmentationHead(channels=4, num_classes=1, includes_head=False),
                one,
                ["out: -1 to 2, mean 0.5"],
                id="one map of a decoder that waits for a head",
            ),
        ],
    )
    def test_what_an_output_means(self, part, output, said):
        assert [str(prediction) for prediction in decode_predictions("out", part, output)] == said

    def test_many_classes_are_summed_up(self):
        assert str(ClassMap("out", np.arange(8).reshape(2, 4), 9)) == (
            "out: 8 of 9 classes: class 0 12.5%, class 1 12.5%, class 2 12.5%, class 3 12.5%, class 4 12.5%, and 3 more"
        )


class TestPanels:
    def test_an_input_is_drawn_as_it_is(self):
        pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
        (axes,) = draw(InputImage("photo", pixels))
        assert axes.get_title() == "photo"
        assert np.array_equal(axes.images[0].get_array(), pixels)

    def test_a_class_map_has_the_colours_of_its_classes_and_a_legend_by_share(self):
        indices = np.array([[4, 4], [7, 2]])
        (axes,) = draw(ClassMap("head", indices, 10))
        assert np.array_equal(axes.images[0].get_array(), get_class_colours(indices))
        assert axes.images[0].get_interpolation() == "nearest"
        lines = ["class 4 50.0%", "class 2 25.0%", "class 7 25.0%"]
        assert read_legend(axes) == [
            (tuple(get_class_colours(index).tolist()), line) for index, line in zip((4, 2, 7), lines, strict=True)
        ]

    def test_a_long_legend_ends_in_a_line_that_sums_up(self):
        (axes,) = draw(ClassMap("head", np.arange(100).reshape(10, 10), 100))
        lines = [line for _, line in read_legend(axes)]
        assert lines == [*(f"class {index} 1.0%" for index in range(10)), "90 more classes 90.0%"]

    def test_values_have_a_colour_bar_from_the_smallest_to_the_largest(self):
        axes, bar = draw(ValueMap("height", np.array([[1.0, 2.0], [np.nan, 5.0]], np.float32)))
        assert bar.get_ylim() == (1, 5)
        image = axes.images[0]
        assert image.get_array().mask.tolist() == [[False, False], [True, False]]
        assert image.cmap.get_bad()[:3].tolist() == pytest.approx(to_rgb("0.804"), abs=1e-3)

    @pytest.mark.parametrize("value", [7.0, 0.0, np.nan, np.inf, 3e38])
    def test_one_number_everywhere_can_be_drawn(self, value):
        assert len(draw(ValueMap("height", np.full((2, 2), value, np.float32)))) == 2

    def test_probabilities_are_bars_the_largest_first(self):
        (axes,) = draw(Vector("scene", np.array([0.0, 0.75, 0.25]), are_probabilities=True))
        assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25, 0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["class 1", "class 2", "class 0"]
        assert [text.get_text() for text in axes.texts] == ["75.0%", "25.0%", "0.0%"]

    @pytest.mark.parametrize("count", [1, 2, 30])
    def test_numbers_are_bars_in_their_order(self, count):
        (axes,) = draw(Vector("biomass", np.arange(count) - 0.5))
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            f"[{index}]" for index in range(min(count, 10))
        ]

    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e38])
    def test_a_number_that_is_not_finite_has_no_bar(self, number):
        (axes,) = draw(Vector("biomass", np.array([number, 2.0])))
        assert [bar.get_width() for bar in axes.patches] == [1e38 if number == 1e38 else 0, 2]
        assert [text.get_text() for text in axes.texts] == [f"{number:g}", "2"]


class TestSheets:
    @pytest.mark.parametrize(
        ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)]
    )
    def test_panels_stand_in_a_grid(self, count, columns, rows):
        figure = draw_sheet([InputImage("photo", np.zeros((3, 4, 3), np.uint8))] * count, 3, 4)
        assert len(figure.axes) == count
        grid = figure.axes[0].get_gridspec()
        assert (grid.ncols, grid.nrows) == (columns, rows)

    @pytest.mark.parametrize(
        ("height", "width"),
        [(1, 1), (100, 100), (400, 600), (3000, 4000), (4000, 3000), (3, 20_000), (20_000, 3)],
        ids=str,
    )
    def test_nothing_overlaps_and_the_sheet_has_a_sensible_size(self, height, width):
        indices = np.arange(height * width).reshape(height, width) % 12
        panels = [
            InputImage("photo", np.zeros((height, width, 3), np.uint8)),
            ClassMap("a_name_of_a_node", indices, 12),
            ValueMap("height", indices.astype(np.float32)),
            Vector("scene", np.arange(20.0)),
        ]
        figure = draw_sheet(panels, height, width)
        figure.canvas.draw()
        boxes = [axes.get_tightbbox().padded(-1) for axes in figure.axes[:4]]
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        assert all(300 <= side <= 2800 for side in figure.get_size_inches() * figure.dpi)
