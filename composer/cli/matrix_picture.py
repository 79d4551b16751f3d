"""The pairs of a matrix as a picture: encoders down, decoders across, a square for each, or for those of a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from attrs import frozen
from PIL import Image, ImageDraw

from composer.adapters.timm.catalogue import find_entry, get_catalogue_version
from composer.cli.inputs import Colour
from composer.cli.matrix import MEANINGS, Matrix
from composer.cli.pictures import FAINT, INK, PAPER, RULE, load_font
from composer.compatibility import VERDICTS, PairResult, Verdict
from composer.layouts import format_count

VERDICT_COLOURS: Mapping[Verdict, Colour] = {"fits": (46, 125, 107), "necks": (236, 184, 74), "refused": (214, 82, 75)}
"""Told apart in grey, and by those who see red and green alike."""


CELL_SIZE, CELL_GAP = 40, 6
"""In pixels, as all that follows: twice what a screen needs, so that it can be printed."""


MATRIX_MARGIN, SOURCE_GAP = 72, 28
"""Around the picture; and between the decoders of two sources."""


MATRIX_TEXT_SIZE, MATRIX_TITLE_SIZE = 30, 48


LABEL_GAP, LINE_GAP = 20, 16
"""Between a name and its squares; and between two lines of text."""


MAX_ENCODER_ROWS = 60
"""Up to so many encoders have a row each; of more, a family has one."""


@frozen
class MatrixRow:
    """A line of the picture: a name, how many encoders it stands for, and their verdicts for each decoder."""

    name: str
    encoders: int
    verdicts: tuple[Counter[Verdict], ...]


def draw_matrix(matrix: Matrix) -> Image.Image:
    """The whole picture: what it shows, the names of the decoders, a line for each encoder or family, the legend."""
    rows = _build_rows(matrix)
    left = MATRIX_MARGIN + max(_measure_text(_format_label(row)) for row in rows) + LABEL_GAP
    places = _compute_column_positions(matrix.decoders, left)
    slant = max(map(_measure_text, matrix.decoders)) + LABEL_GAP
    top = MATRIX_MARGIN + MATRIX_TITLE_SIZE * 2 + len(MEANINGS) * (MATRIX_TEXT_SIZE + LINE_GAP) + LABEL_GAP + slant
    # What is said above may be wider than the squares are.
    width = (
        max(places[-1] + CELL_SIZE, MATRIX_MARGIN + int(load_font(MATRIX_TITLE_SIZE).getlength(_format_title(matrix))))
        + MATRIX_MARGIN
    )
    picture = Image.new("RGB", (width, top + len(rows) * (CELL_SIZE + CELL_GAP) + MATRIX_MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MATRIX_MARGIN, MATRIX_MARGIN), _format_title(matrix), INK, load_font(MATRIX_TITLE_SIZE), anchor="lt")
    _draw_matrix_legend(draw, matrix, MATRIX_MARGIN + MATRIX_TITLE_SIZE * 2)
    for place, name in zip(places, matrix.decoders, strict=True):
        _draw_vertical_text(picture, name, place + CELL_SIZE // 2, top - LINE_GAP)
    for number, row in enumerate(rows):
        _draw_row(draw, row, places, left, top + number * (CELL_SIZE + CELL_GAP))
    return picture


def _build_rows(matrix: Matrix) -> tuple[MatrixRow, ...]:
    """An encoder or a family each, in the order of the encoders; families in that of their names."""
    of_each = list(matrix.iter_rows())
    if len(of_each) <= MAX_ENCODER_ROWS:
        return tuple(MatrixRow(name, 1, tuple(Counter([cell.verdict]) for cell in cells)) for name, cells in of_each)
    families = groupby(sorted(of_each, key=lambda pair: _get_family(pair[0])), lambda pair: _get_family(pair[0]))
    return tuple(_build_family_row(name, [cells for _, cells in members]) for name, members in families)


def _build_family_row(name: str, members: Sequence[Sequence[PairResult]]) -> MatrixRow:
    columns = zip(*members, strict=True)
    return MatrixRow(name, len(members), tuple(Counter(cell.verdict for cell in column) for column in columns))


def _get_family(encoder: str) -> str:
    source, _, name = encoder.partition("/")
    known = find_entry(name) if source == "timm" else None
    return known.family if known else source


def _format_label(row: MatrixRow) -> str:
    return row.name if row.encoders == 1 else f"{row.name}  {row.encoders:,}"


def _format_title(matrix: Matrix) -> str:
    sources = sorted({name.partition("/")[0] for name in matrix.encoders})
    named = [f"timm {get_catalogue_version()}" if source == "timm" else source for source in sources]
    encoders = format_count(len(matrix.encoders), "encoder", form=",")
    decoders, pairs = format_count(len(matrix.decoders), "decoder"), format_count(len(matrix.cells), "pair", form=",")
    return f"{encoders} of {' and '.join(named)}, {decoders}: {pairs}"


def _compute_column_positions(decoders: Sequence[str], left: int) -> tuple[int, ...]:
    """Where each column begins; the decoders of another source stand apart."""
    places, at, last = [], left, None
    for name in decoders:
        source = name.partition("/")[0] if "/" in name else ""
        at += SOURCE_GAP if last not in (None, source) else 0
        places.append(at)
        at, last = at + CELL_SIZE + CELL_GAP, source
    return tuple(places)


def _draw_matrix_legend(draw: ImageDraw.ImageDraw, matrix: Matrix, top: int) -> None:
    total = max(len(matrix.cells), 1)
    for number, verdict in enumerate(VERDICTS):
        y = top + number * (MATRIX_TEXT_SIZE + LINE_GAP)
        draw.rectangle(
            (MATRIX_MARGIN, y, MATRIX_MARGIN + MATRIX_TEXT_SIZE, y + MATRIX_TEXT_SIZE), fill=VERDICT_COLOURS[verdict]
        )
        count = matrix.counts[verdict]
        told = f"{count:,}  ({count / total:.1%})  {MEANINGS[verdict]}"
        draw.text(
            (MATRIX_MARGIN + MATRIX_TEXT_SIZE + LABEL_GAP, y + MATRIX_TEXT_SIZE // 2),
            told,
            INK,
            load_font(MATRIX_TEXT_SIZE),
            anchor="lm",
        )


def _draw_row(draw: ImageDraw.ImageDraw, row: MatrixRow, places: Sequence[int], left: int, top: int) -> None:
    middle = top + CELL_SIZE // 2
    draw.text((left - LABEL_GAP, middle), _format_label(row), INK, load_font(MATRIX_TEXT_SIZE), anchor="rm")
    if row.encoders > 1:
        # The number once more, faint, over itself: the name is what is looked for.
        at = left - LABEL_GAP
        draw.rectangle((at - _measure_text(f"{row.encoders:,}"), top, at, top + CELL_SIZE), fill=PAPER)
        draw.text((at, middle), f"{row.encoders:,}", FAINT, load_font(MATRIX_TEXT_SIZE), anchor="rm")
    for place, verdicts in zip(places, row.verdicts, strict=True):
        _draw_cell(draw, place, top, verdicts)


def _draw_cell(draw: ImageDraw.ImageDraw, left: int, top: int, verdicts: Counter[Verdict]) -> None:
    """A square, filled from the left in proportion to what becomes of the pairs that it stands for."""
    draw.rectangle((left, top, left + CELL_SIZE - 1, top + CELL_SIZE - 1), fill=RULE)
    total, done = sum(verdicts.values()), 0
    for verdict in VERDICTS:
        if verdicts[verdict]:
            start = left + CELL_SIZE * done // total
            done += verdicts[verdict]
            draw.rectangle(
                (start, top, left + CELL_SIZE * done // total - 1, top + CELL_SIZE - 1), fill=VERDICT_COLOURS[verdict]
            )


def _draw_vertical_text(picture: Image.Image, text: str, centre: int, bottom: int) -> None:
    """Text that is read from below, its middle line over `centre`."""
    height = MATRIX_TEXT_SIZE + LINE_GAP
    label = Image.new("RGB", (_measure_text(text), height), PAPER)
    ImageDraw.Draw(label).text((0, height // 2), text, INK, load_font(MATRIX_TEXT_SIZE), anchor="lm")
    turned = label.rotate(90, expand=True)
    picture.paste(turned, (centre - height // 2, bottom - turned.height))


def _measure_text(text: str) -> int:
    return int(load_font(MATRIX_TEXT_SIZE).getlength(text)) + 1
