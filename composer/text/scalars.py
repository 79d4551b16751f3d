"""What a word of YAML stands for, and how a value is spelled: YAML 1.2's core schema, both ways. No torch here."""

from __future__ import annotations

import json
import re

ScalarValue = str | int | float | bool | None

MAX_DIGITS = 40
"""Digits of a whole number: more than any field takes, and few enough that none is slow to read."""

_WORDS: dict[str, ScalarValue] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INTEGER_PATTERN = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_BASES = {"0o": 8, "0x": 16}
_FLOAT_PATTERN = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

_CONSTANT_SPELLINGS = {"None": "null", "True": "true", "False": "false", "inf": ".inf", "-inf": "-.inf", "nan": ".nan"}

_UNQUOTED = re.compile(r"(?:\w|/|\.{1,2}/|~/)(?:[\w/.+@=-]| (?! ))*(?<! )")
"""Strings that mean themselves without quotes, wherever they stand. Narrower than YAML's own rule, and simple."""

_ESCAPED = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def parse_scalar(text: str) -> ScalarValue:
    """The value of a scalar without quotes: `no` is a string, `010` is ten, `1e-1` a number.

    Raises ValueError for a whole number of more than `MOST_DIGITS` digits.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER_PATTERN.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a whole number has at most {MAX_DIGITS} digits (got {len(text):,}).")
        base = _BASES.get(text[:2])
        return int(text[2:], base) if base else int(text)
    return float(text) if _FLOAT_PATTERN.fullmatch(text) else text


def format_scalar(value: ScalarValue) -> str:
    """The scalar that is read as `value`: with quotes only where it would be something else without."""
    if not isinstance(value, str):
        return _CONSTANT_SPELLINGS.get(repr(value), repr(value))
    if _UNQUOTED.fullmatch(value) and _is_plain_string(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", quoted)


def _is_plain_string(text: str) -> bool:
    try:
        return parse_scalar(text) is text
    except ValueError:
        return False
