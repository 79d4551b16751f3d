"""The smallest text that still shows something, as far as leaving things out leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

TRIES = 150


def reduced(text: str, shows: Callable[[str], bool], tries: int = TRIES) -> str:
    """A part of `text` for which `shows` holds, after lines, then words and signs are left out one after the other.

    `shows` holds of `text` itself, and is asked at most so many times.
    """
    left = tries

    def holds(candidate: str) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and shows(candidate)

    for pieces in (lambda t: t.splitlines(keepends=True), _words, list):
        text = "".join(_fewest(pieces(text), lambda kept: holds("".join(kept))))
    return text


def _words(text: str) -> list[str]:
    """Runs of letters and digits, and what stands between them, sign by sign."""
    words: list[str] = []
    for sign in text:
        if words and words[-1][-1].isalnum() and sign.isalnum():
            words[-1] += sign
        else:
            words.append(sign)
    return words


def _fewest(pieces: list[str], holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """The pieces that are left when halves, quarters and so on are left out wherever it still holds."""
    size = max(1, len(pieces) // 2)
    while pieces:
        start = 0
        while start < len(pieces):
            fewer = pieces[:start] + pieces[start + size :]
            if fewer and holds(fewer):
                pieces = fewer
            else:
                start += size
        if size == 1:
            break
        size //= 2
    return pieces
