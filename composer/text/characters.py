"""What a text may be before it is read at all: its size, its encoding, its characters. No torch here."""

from __future__ import annotations

import os
import re
from typing import NoReturn

from composer.problem import Place, Problem, SpecError

MAX_SPEC_BYTES = 2**20
"""The size of a text. Models are described in hundreds of bytes."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
# A key with its value, or one whose value begins on the next line. No path looks like that.
_SPEC_START = re.compile(r"\s*[A-Za-z]+:(\s|$)")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# libyaml takes time that grows with the square of the number of these.
_TAG_DIRECTIVE = re.compile("(?:\\A\ufeff?|[\n\r\x85\u2028\u2029])%TAG")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of the file at `path`. Raises SpecError where there is none, and where it is too large or no UTF-8."""
    name = os.fsdecode(path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
    except (OSError, ValueError) as error:
        if "\n" in name or _SPEC_START.match(name):
            began = name.strip().partition("\n")[0][:64]
            message = f"expected the path of a file (got a text that begins with {began!r})."
            raise SpecError([Problem(code="file", message=message, repair="use composer.reads for a text")]) from None
        reason = getattr(error, "strerror", None) or str(error)
        message = f"the file cannot be read: {reason}."
        raise SpecError([Problem(code="file", message=message, place=Place("", name))]) from None
    return decode_text(data, name)


def decode_text(data: bytes, file: str | None = None) -> str:
    """The text of a file. Raises SpecError for one that is too large, and for bytes that are no UTF-8."""
    if len(data) > MAX_SPEC_BYTES:
        _refuse_size(file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"the text is not UTF-8 (got the byte 0x{data[error.start]:02x})."
        place = _compute_place(data[: error.start].decode(), file)
        raise SpecError([Problem(code="yaml", message=message, place=place, repair="save it as UTF-8")]) from None


def refuse_characters(text: str, file: str | None) -> None:
    """Raise SpecError for a text that is too large, or holds what libyaml stumbles over."""
    if len(text) > MAX_SPEC_BYTES or len(text.encode(errors="surrogatepass")) > MAX_SPEC_BYTES:
        _refuse_size(file)
    if match := _UNPRINTABLE.search(text):
        message = f"the character {match[0]!r} cannot stand in a text."
    elif match := _TAG_DIRECTIVE.search(text):
        message = "tags mean nothing here (got the directive %TAG)."
    else:
        return
    place = _compute_place(text[: match.start()], file)
    raise SpecError([Problem(code="yaml", message=message, place=place, repair="leave it out")])


def _refuse_size(file: str | None) -> NoReturn:
    message = f"a text has at most {MAX_SPEC_BYTES:,} bytes."
    raise SpecError([Problem(code="limit", message=message, place=Place("", file, 1, 1))])


def _compute_place(before: str, file: str | None) -> Place:
    lines = _LINE_END.split(before)
    return Place("", file, len(lines), len(lines[-1].removeprefix("\ufeff")) + 1)
