"""Auxiliary heads of a call, as mappings of a name, a decoder and arguments. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from composer.graph import NAME
from composer.problem import nearest
from composer.terratorch.arguments import Ledger

FIELDS = ("name", "decoder", "decoder_args")
"""What an auxiliary head has, in TerraTorch's class and in a dict."""


def auxiliary_heads(given: Any, ledger: Ledger) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path of each auxiliary head that has all it needs, and the head as a mapping of its three fields."""
    if given is None:
        return
    if not isinstance(given, list | tuple):
        ledger.refuse("aux_decoders", f"aux_decoders is a list of auxiliary heads (got {given!r}).", code="type")
        return
    names: set[str] = set()
    for position, entry in enumerate(given):
        path = f"aux_decoders[{position}]"
        fields = _fields(entry, path, ledger)
        if fields is None:
            continue
        name = fields["name"]
        if name in names:
            # TerraTorch keeps the last of them, and builds the others for nothing.
            ledger.refuse(
                f"{path}.name", f"there is an auxiliary head {name!r} already.", "choose another name", "name"
            )
            continue
        names.add(name)
        yield path, fields


def _fields(entry: Any, path: str, ledger: Ledger) -> dict[str, Any] | None:
    """The fields of one; None, and problems, where they are not as they must be."""
    fields = dict(entry) if isinstance(entry, Mapping) else _attributes(entry)
    if fields is None:
        repair = "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}"
        ledger.refuse(path, f"an auxiliary head is an AuxiliaryHead or a dict (got {entry!r}).", repair, code="type")
        return None
    before = len(ledger.problems)
    for field in fields:
        if field not in FIELDS:
            ledger.refuse(f"{path}.{field}", f"an auxiliary head has no {field!r}.", nearest(field, FIELDS), "unused")
    for field in ("name", "decoder"):
        if fields.get(field) is None:
            ledger.refuse(path, f"an auxiliary head needs a {field}.", code="missing")
    name, arguments = fields.get("name"), fields.get("decoder_args") or {}
    if name is not None and not (isinstance(name, str) and NAME.fullmatch(name)):
        message = f"a name is letters, digits and _, and begins with a letter (got {name!r})."
        ledger.refuse(f"{path}.name", message, "choose another name", "name")
    if not isinstance(arguments, Mapping):
        message = f"decoder_args is a dict of arguments (got {arguments!r})."
        ledger.refuse(f"{path}.decoder_args", message, "{decoder_channels: 256}", "type")
    return {**fields, "decoder_args": arguments} if len(ledger.problems) == before else None


def _attributes(entry: Any) -> dict[str, Any] | None:
    """The fields of an object of TerraTorch's class, or of ours."""
    return {field: getattr(entry, field) for field in FIELDS} if all(hasattr(entry, f) for f in FIELDS) else None
