"""The pairs of a matrix as a picture: encoders down, decoders across, a square for each, or for those of a family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from attrs import frozen
from PIL import Image, ImageDraw

from composer.catalogue import entry, stamp
from composer.commands.colours import Colour
from composer.commands.matrix import Matrix
from composer.commands.matrix_text import MEANINGS
from composer.commands.pictures import FAINT, INK, PAPER, RULE, font
from composer.feature import counted
from composer.pairing import VERDICTS, Cell, Verdict

COLOURS: Mapping[Verdict, Colour] = {"fits": (46, 125, 107), "necks": (236, 184, 74), "refused": (214, 82, 75)}
"""Told apart in grey, and by those who see red and green alike."""

SQUARE, GAP = 40, 6
"""In pixels, as all that follows: twice what a screen needs, so that it can be printed."""

MARGIN, BETWEEN = 72, 28
"""Around the picture; and between the decoders of two sources."""

TEXT, TITLE = 30, 48
BESIDE, LEADING = 20, 16
"""Between a name and its squares; and between two lines of text."""

ONE_BY_ONE = 60
"""Up to so many encoders have a row each; of more, a family has one."""


@frozen
class Row:
    """A line of the picture: a name, how many encoders it stands for, and their verdicts for each decoder."""

    name: str
    encoders: int
    verdicts: tuple[Counter[Verdict], ...]


def drawn(matrix: Matrix) -> Image.Image:
    """The whole picture: what it shows, the names of the decoders, a line for each encoder or family, the legend."""
    rows = _rows(matrix)
    left = MARGIN + max(_wide(_label(row)) for row in rows) + BESIDE
    places = _places(matrix.decoders, left)
    slant = max(map(_wide, matrix.decoders)) + BESIDE
    top = MARGIN + TITLE * 2 + len(MEANINGS) * (TEXT + LEADING) + BESIDE + slant
    # What is said above may be wider than the squares are.
    width = max(places[-1] + SQUARE, MARGIN + int(font(TITLE).getlength(_title(matrix)))) + MARGIN
    picture = Image.new("RGB", (width, top + len(rows) * (SQUARE + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), _title(matrix), INK, font(TITLE), anchor="lt")
    _legend(draw, matrix, MARGIN + TITLE * 2)
    for place, name in zip(places, matrix.decoders, strict=True):
        _upright(picture, name, place + SQUARE // 2, top - LEADING)
    for number, row in enumerate(rows):
        _row(draw, row, places, left, top + number * (SQUARE + GAP))
    return picture


def _rows(matrix: Matrix) -> tuple[Row, ...]:
    """An encoder or a family each, in the order of the encoders; families in that of their names."""
    of_each = list(matrix.rows())
    if len(of_each) <= ONE_BY_ONE:
        return tuple(Row(name, 1, tuple(Counter([cell.verdict]) for cell in cells)) for name, cells in of_each)
    families = groupby(sorted(of_each, key=lambda pair: _family(pair[0])), lambda pair: _family(pair[0]))
    return tuple(_of_family(name, [cells for _, cells in members]) for name, members in families)


def _of_family(name: str, members: Sequence[Sequence[Cell]]) -> Row:
    columns = zip(*members, strict=True)
    return Row(name, len(members), tuple(Counter(cell.verdict for cell in column) for column in columns))


def _family(encoder: str) -> str:
    source, _, name = encoder.partition("/")
    known = entry(name) if source == "timm" else None
    return known.family if known else source


def _label(row: Row) -> str:
    return row.name if row.encoders == 1 else f"{row.name}  {row.encoders:,}"


def _title(matrix: Matrix) -> str:
    sources = sorted({name.partition("/")[0] for name in matrix.encoders})
    named = [f"timm {stamp()}" if source == "timm" else source for source in sources]
    encoders = counted(len(matrix.encoders), "encoder", form=",")
    decoders, pairs = counted(len(matrix.decoders), "decoder"), counted(len(matrix.cells), "pair", form=",")
    return f"{encoders} of {' and '.join(named)}, {decoders}: {pairs}"


def _places(decoders: Sequence[str], left: int) -> tuple[int, ...]:
    """Where each column begins; the decoders of another source stand apart."""
    places, at, last = [], left, None
    for name in decoders:
        source = name.partition("/")[0] if "/" in name else ""
        at += BETWEEN if last not in (None, source) else 0
        places.append(at)
        at, last = at + SQUARE + GAP, source
    return tuple(places)


def _legend(draw: ImageDraw.ImageDraw, matrix: Matrix, top: int) -> None:
    total = max(len(matrix.cells), 1)
    for number, verdict in enumerate(VERDICTS):
        y = top + number * (TEXT + LEADING)
        draw.rectangle((MARGIN, y, MARGIN + TEXT, y + TEXT), fill=COLOURS[verdict])
        count = matrix.counts[verdict]
        told = f"{count:,}  ({count / total:.1%})  {MEANINGS[verdict]}"
        draw.text((MARGIN + TEXT + BESIDE, y + TEXT // 2), told, INK, font(TEXT), anchor="lm")


def _row(draw: ImageDraw.ImageDraw, row: Row, places: Sequence[int], left: int, top: int) -> None:
    middle = top + SQUARE // 2
    draw.text((left - BESIDE, middle), _label(row), INK, font(TEXT), anchor="rm")
    if row.encoders > 1:
        # The number once more, faint, over itself: the name is what is looked for.
        at = left - BESIDE
        draw.rectangle((at - _wide(f"{row.encoders:,}"), top, at, top + SQUARE), fill=PAPER)
        draw.text((at, middle), f"{row.encoders:,}", FAINT, font(TEXT), anchor="rm")
    for place, verdicts in zip(places, row.verdicts, strict=True):
        _square(draw, place, top, verdicts)


def _square(draw: ImageDraw.ImageDraw, left: int, top: int, verdicts: Counter[Verdict]) -> None:
    """A square, filled from the left in proportion to what becomes of the pairs that it stands for."""
    draw.rectangle((left, top, left + SQUARE - 1, top + SQUARE - 1), fill=RULE)
    total, done = sum(verdicts.values()), 0
    for verdict in VERDICTS:
        if verdicts[verdict]:
            start = left + SQUARE * done // total
            done += verdicts[verdict]
            draw.rectangle((start, top, left + SQUARE * done // total - 1, top + SQUARE - 1), fill=COLOURS[verdict])


def _upright(picture: Image.Image, text: str, centre: int, bottom: int) -> None:
    """Text that is read from below, its middle line over `centre`."""
    height = TEXT + LEADING
    label = Image.new("RGB", (_wide(text), height), PAPER)
    ImageDraw.Draw(label).text((0, height // 2), text, INK, font(TEXT), anchor="lm")
    turned = label.rotate(90, expand=True)
    picture.paste(turned, (centre - height // 2, bottom - turned.height))


def _wide(text: str) -> int:
    return int(font(TEXT).getlength(text)) + 1
