"""Auxiliary heads of a call, as mappings of a name, a decoder and arguments. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from composer.problem import suggest
from composer.terratorch.arguments import Diagnostics

AUXILIARY_FIELDS = ("name", "decoder", "decoder_args")
"""What an auxiliary head has, in TerraTorch's class and in a dict."""


def normalize_branch(name: str) -> str:
    """What a graph calls the branch of this name: `fcn-aux_1` is `fcn_aux_1` there, and `_x` is `aux_x`.

    TerraTorch takes any name without a dot; that of a node is letters, digits and _, and begins with a letter.
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return plain if plain[:1].isalpha() else f"aux{'' if plain.startswith('_') else '_'}{plain}"


def iter_auxiliary_heads(given: Any, ledger: Diagnostics) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The path of each auxiliary head that has all it needs, and the head as a mapping of its three fields.

    No two of them come to one name in the graph.
    """
    if given is None:
        return
    if not isinstance(given, list | tuple):
        ledger.add_problem("aux_decoders", f"aux_decoders is a list of auxiliary heads (got {given!r}).", code="type")
        return
    names: dict[str, str] = {}
    for position, entry in enumerate(given):
        path = f"aux_decoders[{position}]"
        fields = _parse_head_fields(entry, path, ledger)
        if fields is None:
            continue
        name = fields["name"]
        if normalize_branch(name) in names:
            # TerraTorch keeps the last of those that bear one name, and builds the others for nothing.
            other = names[normalize_branch(name)]
            alike = "" if other == name else f", which a graph would call {normalize_branch(name)} too"
            message = f"there is an auxiliary head {other!r} already{alike}."
            ledger.add_problem(f"{path}.name", message, "choose another name", "name")
            continue
        names[normalize_branch(name)] = name
        yield path, fields


def _parse_head_fields(entry: Any, path: str, ledger: Diagnostics) -> dict[str, Any] | None:
    """The fields of one; None, and problems, where they are not as they must be."""
    fields = dict(entry) if isinstance(entry, Mapping) else _get_head_attributes(entry)
    if fields is None:
        repair = "{name: NAME, decoder: FCNDecoder, decoder_args: {…}}"
        ledger.add_problem(
            path, f"an auxiliary head is an AuxiliaryHead or a dict (got {entry!r}).", repair, code="type"
        )
        return None
    before = len(ledger.problems)
    for field in fields:
        if field not in AUXILIARY_FIELDS:
            ledger.add_problem(
                f"{path}.{field}", f"an auxiliary head has no {field!r}.", suggest(field, AUXILIARY_FIELDS), "unused"
            )
    for field in ("name", "decoder"):
        if fields.get(field) is None:
            ledger.add_problem(path, f"an auxiliary head needs a {field}.", code="missing")
    name, arguments = fields.get("name"), fields.get("decoder_args") or {}
    if name is not None and not (isinstance(name, str) and _is_valid_head_name(name)):
        message = f"a name has from 1 to 60 characters, and no dot (got {name!r})."
        ledger.add_problem(f"{path}.name", message, "choose another name", "name")
    if not isinstance(arguments, Mapping):
        message = f"decoder_args is a dict of arguments (got {arguments!r})."
        ledger.add_problem(f"{path}.decoder_args", message, "{decoder_channels: 256}", "type")
    return {**fields, "decoder_args": arguments} if len(ledger.problems) == before else None


def _is_valid_head_name(name: str) -> bool:
    return 1 <= len(name) <= 60 and "." not in name


def _get_head_attributes(entry: Any) -> dict[str, Any] | None:
    """The fields of an object of TerraTorch's class, or of ours."""
    return (
        {field: getattr(entry, field) for field in AUXILIARY_FIELDS}
        if all(hasattr(entry, f) for f in AUXILIARY_FIELDS)
        else None
    )
