"""Drawn predictions, pixel by pixel: the right colours at the right places, and legends that name them."""

from itertools import combinations

import numpy as np
import pytest

from composer.adapters.mmseg.parts import Mmseg
from composer.cli.predictions import (
    LINE_HEIGHT,
    MIN_PANEL_WIDTH,
    NO_DATA_COLOUR,
    PANEL_MARGIN,
    PAPER,
    SWATCH_SIZE,
    TITLE_HEIGHT,
    Prediction,
    compose_sheet,
    compute_drawn_size,
    decode_classes,
    decode_predictions,
    decode_probabilities,
    decode_scalars,
    decode_values,
    format_percent,
    get_class_colour,
    render_classes,
    render_values,
    resize_pixels,
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

SIZE = (400, 300)
LOW, HIGH = (41, 18, 84), (251, 232, 88)


def drawn(*parts) -> np.ndarray:
    return np.asarray(compose_sheet([], parts, SIZE))


def at(pixels, left, top):
    return tuple(pixels[PANEL_MARGIN + top, PANEL_MARGIN + left].tolist())


def has_ink(pixels, left, top, width, height):
    region = pixels[PANEL_MARGIN + top : PANEL_MARGIN + top + height, PANEL_MARGIN + left : PANEL_MARGIN + left + width]
    return bool((region < 120).all(axis=-1).any())


def quarters(*classes) -> Prediction:
    """A map of 2 × 2 cells."""
    return decode_classes("head", np.array(classes).reshape(2, 2), 10)


class TestColours:
    def test_classes_look_different(self):
        colours = np.array([get_class_colour(index) for index in range(20)], dtype=float)
        assert min(np.linalg.norm(one - other) for one, other in combinations(colours, 2)) > 25
        assert len({get_class_colour(index) for index in range(256)}) == 256

    def test_no_class_looks_like_paper(self):
        assert max(sum(get_class_colour(index)) for index in range(256)) < 3 * 235

    def test_a_class_keeps_its_colour_whatever_else_is_there(self):
        alone, among = render_classes(np.array([[3]])), render_classes(np.array([[0, 3, 77]]))
        assert alone[0, 0].tolist() == among[0, 1].tolist() == list(get_class_colour(3))

    def test_the_ramp_grows_lighter(self):
        ramp = render_values(np.linspace(2, 7, 64), 2, 7).astype(float)
        light = ramp @ [0.3, 0.59, 0.11]
        assert (np.diff(light) > 0).all()
        assert (tuple(ramp[0]), tuple(ramp[-1])) == (LOW, HIGH)

    def test_what_is_not_finite_is_grey_and_one_number_is_low(self):
        painted = render_values(np.array([np.nan, np.inf, 5.0]), 5, 5)
        assert painted.tolist() == [list(NO_DATA_COLOUR), list(NO_DATA_COLOUR), list(LOW)]


class TestPredictions:
    one, three = np.array([[[-1.0, 2.0]]]), np.array([[[1.0, 0.0]], [[3.0, 0.0]], [[2.0, 9.0]]])

    @pytest.mark.parametrize(
        ("part", "output", "said"),
        [
            pytest.param(
                SegmentationHead(num_classes=3),
                three,
                ["out: 2 of 3 classes: class 1 50.0 %, class 2 50.0 %"],
                id="largest score",
            ),
            pytest.param(
                LinearDecoder(num_classes=3, upsampling_size=2),
                three,
                ["out: 2 of 3 classes: class 1 50.0 %, class 2 50.0 %"],
                id="a decoder that needs no head",
            ),
            pytest.param(
                SegmentationHead(num_classes=1),
                one,
                ["out: 2 of 2 classes: class 0 50.0 %, class 1 50.0 %"],
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
                ClassificationHead(num_classes=3),
                np.log([1.0, 6.0, 3.0]),
                ["out: class 1 60.0 %, class 2 30.0 %, class 0 10.0 %"],
                id="softmax",
            ),
            pytest.param(
                ClassificationHead(num_classes=1),
                np.log([3.0]),
                ["out: class 1 75.0 %, class 0 25.0 %"],
                id="one score for an image",
            ),
            pytest.param(
                ScalarHead(num_outputs=2), np.array([0.5, 1234.56]), ["out: 0.5, 1235"], id="numbers for an image"
            ),
            pytest.param(
                IdentityDecoder(),
                np.arange(10.0),
                ["out: 0, 1, 2, 3, 4, 5, 6, 7, and 2 more"],
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
                ["out: 2 of 2 classes: class 0 50.0 %, class 1 50.0 %"],
                id="one score of a decoder that needs no head",
            ),
            pytest.param(
                Mmseg("FCNHead", num_classes=1), one, ["out: -1 to 2, mean 0.5"], id="values of a head of mmseg's"
            ),
            pytest.param(
                Mmseg("FCNHead", num_classes=3),
                three,
                ["out: 2 of 3 classes: class 1 50.0 %, class 2 50.0 %"],
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
        assert str(decode_classes("out", np.arange(8).reshape(2, 4), 9)) == (
            "out: 8 of 9 classes: "
            "class 0 12.5 %, class 1 12.5 %, class 2 12.5 %, class 3 12.5 %, class 4 12.5 %, and 3 more"
        )

    @pytest.mark.parametrize(
        ("share", "said"),
        [(0, "0.0 %"), (1e-5, "<0.1 %"), (0.5, "50.0 %"), (0.99999, ">99.9 %"), (1, "100.0 %")],
    )
    def test_percent(self, share, said):
        assert format_percent(share) == said


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        pytest.param(300, 400, (400, 300), id="as it is"),
        pytest.param(1500, 3000, (1024, 512), id="large"),
        pytest.param(3000, 1500, (512, 1024), id="tall"),
        pytest.param(100, 64, (256, 400), id="small, by a whole factor"),
        pytest.param(1, 5000, (1024, 1), id="a line"),
    ],
)
def test_drawn_size(height, width, expected):
    assert compute_drawn_size(height, width) == expected


class TestPanels:
    def test_input_and_prediction_stand_side_by_side(self):
        pixels = np.zeros((3, 4, 3), np.uint8)
        pixels[0, 3] = (250, 0, 0)
        both = np.asarray(compose_sheet([("image", pixels)], [quarters(0, 1, 2, 3)], SIZE))
        right = SIZE[0] + PANEL_MARGIN
        assert both.shape[1] == 2 * SIZE[0] + 3 * PANEL_MARGIN
        assert [at(both, 399, TITLE_HEIGHT), at(both, 299, TITLE_HEIGHT), at(both, 399, TITLE_HEIGHT + 100)] == [
            (250, 0, 0),
            (0,) * 3,
            (0,) * 3,
        ]
        corners = [(0, 0), (399, 0), (0, 299), (399, 299)]
        assert [at(both, right + x, TITLE_HEIGHT + y) for x, y in corners] == [
            get_class_colour(index) for index in range(4)
        ]
        assert [at(both, x, TITLE_HEIGHT + 10) for x in (-1, 400, right - 1, right + 400)] == [PAPER] * 4
        assert has_ink(both, 0, 0, 60, TITLE_HEIGHT)
        assert has_ink(both, right, 0, 60, TITLE_HEIGHT)

    def test_a_class_map_has_no_colour_but_those_of_its_classes(self):
        pixels = drawn(quarters(4, 4, 7, 2))
        top = PANEL_MARGIN + TITLE_HEIGHT
        colours = np.unique(pixels[top : top + SIZE[1], PANEL_MARGIN : PANEL_MARGIN + SIZE[0]].reshape(-1, 3), axis=0)
        assert sorted(map(tuple, colours.tolist())) == sorted(get_class_colour(index) for index in (2, 4, 7))

    def test_the_legend_names_classes_by_share(self):
        prediction = quarters(4, 4, 7, 2)
        assert prediction.legend == [
            (get_class_colour(4), "class 4 50.0 %"),
            (get_class_colour(2), "class 2 25.0 %"),
            (get_class_colour(7), "class 7 25.0 %"),
        ]
        pixels = drawn(prediction)
        tops = [TITLE_HEIGHT + SIZE[1] + LINE_HEIGHT * line for line in range(3)]
        swatches = [at(pixels, SWATCH_SIZE // 2, top + LINE_HEIGHT // 2) for top in tops]
        assert swatches == [get_class_colour(index) for index in (4, 2, 7)]
        assert [has_ink(pixels, SWATCH_SIZE + 10, top, 60, LINE_HEIGHT) for top in tops] == [True] * 3

    def test_a_long_legend_ends_in_a_line_that_sums_up(self):
        legend = decode_classes("head", np.arange(100).reshape(10, 10), 100).legend
        assert len(legend) == 9
        assert legend[-1] == (None, "and 92 more classes 92.0 %")

    def test_values_have_a_scale_from_the_smallest_to_the_largest(self):
        values = decode_values("height", np.array([[1.0, 2.0], [3.0, 5.0]]))
        pixels = drawn(values)
        assert [at(pixels, 0, TITLE_HEIGHT), at(pixels, 399, TITLE_HEIGHT + 299)] == [LOW, HIGH]
        assert at(pixels, 399, TITLE_HEIGHT) == tuple(render_values(np.array([2.0]), 1, 5)[0].tolist())
        middle = tuple(render_values(np.array([3.0]), 1, 5)[0].tolist())
        assert values.legend == [(LOW, "1"), (middle, "3"), (HIGH, "5")]

    def test_one_number_everywhere(self):
        assert decode_values("height", np.full((2, 2), 7.0)).legend == [(LOW, "7")]

    def test_probabilities_and_numbers_are_lines(self):
        scene = decode_probabilities("scene", np.array([0.0, 0.75, 0.25]))
        lines = [text for _, text in scene.legend]
        assert lines == ["class 1 75.0 %", "class 2 25.0 %", "class 0 0.0 %"]
        assert str(scene) == f"scene: {', '.join(lines)}"
        numbers = decode_scalars("biomass", np.array([0.5, 1234.5]))
        assert numbers.legend == [(None, "[0] 0.5"), (None, "[1] 1234")]
        pixels = drawn(numbers)
        assert pixels.shape[0] == 2 * PANEL_MARGIN + TITLE_HEIGHT + 2 * LINE_HEIGHT
        assert has_ink(pixels, 0, TITLE_HEIGHT, 100, LINE_HEIGHT)

    @pytest.mark.parametrize(
        ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)]
    )
    def test_panels_stand_in_a_grid(self, count, columns, rows):
        pixels = np.full((300, 400, 3), 9, np.uint8)
        whole = np.asarray(compose_sheet([("image", pixels)] * count, [], SIZE))
        assert whole.shape[:2] == (
            rows * (TITLE_HEIGHT + 300 + PANEL_MARGIN) + PANEL_MARGIN,
            columns * (400 + PANEL_MARGIN) + PANEL_MARGIN,
        )
        assert (whole.reshape(-1, 3) == 9).all(axis=-1).sum() >= count * 300 * 400

    def test_a_narrow_picture_has_room_for_its_legend(self):
        sheet = compose_sheet([], [quarters(0, 1, 2, 3)], (30, 300))
        assert sheet.width == MIN_PANEL_WIDTH + 2 * PANEL_MARGIN

    def test_a_long_title_stays_inside(self):
        pixels = drawn(decode_values("a_very_long_name_of_a_node_" * 5, np.zeros((2, 2))))
        assert (pixels[: PANEL_MARGIN + TITLE_HEIGHT, PANEL_MARGIN + SIZE[0] :] == PAPER).all()
        assert has_ink(pixels, SIZE[0] - 60, 0, 60, TITLE_HEIGHT)

    def test_a_large_picture_is_averaged_and_a_small_one_stays_sharp(self):
        checks = np.indices((2000, 2000)).sum(axis=0) % 2 * 255
        large = resize_pixels(np.repeat(checks[..., None], 3, axis=-1).astype(np.uint8), (1000, 1000))
        assert np.unique(np.asarray(large)).tolist() == [128]
        small = resize_pixels(np.array([[[0] * 3, [255] * 3]], np.uint8), (400, 200))
        assert np.unique(np.asarray(small)).tolist() == [0, 255]
