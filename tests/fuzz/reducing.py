"""The smallest text that still shows something, as far as leaving things out leads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MAX_REDUCTION_TRIES = 150


def reduce_text(text: str, shows: Callable[[str], bool], tries: int = MAX_REDUCTION_TRIES) -> str:
    """A part of `text` for which `shows` holds, after lines, then words and signs are left out one after the other.

    `shows` holds of `text` itself, and is asked at most so many times.
    """
    left = tries

    def check_candidate(candidate: str) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and shows(candidate)

    for pieces in (lambda t: t.splitlines(keepends=True), _split_words, list):
        text = "".join(_reduce_pieces(pieces(text), lambda kept: check_candidate("".join(kept))))
    return text


def _split_words(text: str) -> list[str]:
    """Runs of letters and digits, and what stands between them, sign by sign."""
    words: list[str] = []
    for sign in text:
        if words and words[-1][-1].isalnum() and sign.isalnum():
            words[-1] += sign
        else:
            words.append(sign)
    return words


def _reduce_pieces(pieces: list[str], holds: Callable[[Sequence[str]], bool]) -> list[str]:
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
