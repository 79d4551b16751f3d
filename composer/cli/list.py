"""`list`, `explain` and `matrix`: print the parts, the error codes, and which encoders and decoders fit together."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.adapters.timm.catalogue import get_catalogue_version, list_networks
from composer.cli.terminal import UsageError, build_table, check_writable, log, print_text, render, write_text
from composer.compatibility import PairResult, Verdict, evaluate_pairs, list_decoder_names
from composer.encoder_info import LIBRARIES, describe, get_adapter
from composer.errors import suggest
from composer.layouts import format_count
from composer.neck_paths import format_part
from composer.parts import KINDS, PART_REGISTRY, Part, ProbedEncoder
from composer.parts.base import get_part_name
from composer.parts.registry import UnusableError
from composer.process import handle_interrupts
from composer.spec.schema import OPTIONS, get_fields
from composer.spec.writer import dump, get_written_fields

if TYPE_CHECKING:
    from rich.console import RenderableType

PLURALS = {f"{kind}s": kind for kind in KINDS}

UNLISTED_SOURCES = ("timm", "transformers")
"""Sources with more names than a registry lists."""

CHUNK = 8
"""Encoders that a process evaluates at a time; starting one pays off only for so many."""

MAX_LISTED_PAIRS = 150
"""Pairs that a table lists one by one; of more, it counts the verdicts of each decoder."""

LEGEND: dict[Verdict, tuple[str, str]] = {
    "fits": ("●", "fits as it is"),
    "necks": ("◐", "fits with necks, or with other levels of the encoder"),
    "refused": ("·", "does not fit"),
}
"""For each verdict its sign in tables, and its meaning."""


def print_parts(kind: str, pattern: str | None) -> None:
    """Print the parts of a kind, such as `necks`, with their fields; for a pattern of encoders, names only.

    Raises UsageError where nothing matches.
    """
    if kind == "encoders" and pattern is not None and pattern not in list_parts(kind)[0]:
        names = find_encoder_names(pattern)
        _log_notes(pattern, names)
        if names:
            print_text("\n".join(names))
            return
    print_text(render(*describe_parts(kind, pattern)))
    if kind == "encoders" and pattern is None:
        print_text("python -m composer list encoders 'timm/*resnet*' lists names.")


def describe_parts(kinds: str, pattern: str | None) -> list[RenderableType]:
    """Return names, purpose, and fields with their defaults of the parts of a kind that match `pattern`.

    Names that cannot be used come last, with the reason. Raises UsageError where nothing else matches.
    """
    from rich.padding import Padding
    from rich.text import Text

    parts, unusable = list_parts(kinds)
    matching = {name: part for name, part in parts.items() if is_match(name, pattern)}
    reasons = [why for name, why in unusable.items() if is_match(name, pattern)]
    if not matching:
        names = ", ".join(dict.fromkeys(re.sub("/.*", "/…", name) for name in parts))
        raise UsageError("\n".join(reasons) or f"no {PLURALS[kinds]} is named {pattern!r}; there are {names}")
    lines: list[RenderableType] = []
    # Names that differ in size only are described together.
    alike = groupby(
        matching, lambda name: (_describe_part(matching[name], name), *_format_fields(matching[name], name))
    )
    for (purpose, *fields), names_of_size in alike:
        arguments = Text("".join(f"  {field}\n" for field in fields), "dim")
        lines += [Text("\n".join(names_of_size), "bold cyan"), Padding(purpose, (0, 0, 0, 4)), arguments]
    sources = dict.fromkeys(part.source for part in matching.values() if part.source in LIBRARIES)
    return [*lines, *map(_describe_installation, filter(None, sources)), *reasons]


def is_match(name: str, pattern: str | None) -> bool:
    """Return whether a name matches the pattern, ignoring case; without a pattern, any does."""
    return pattern is None or fnmatchcase(name.lower(), pattern.lower())


def list_parts(kinds: str) -> tuple[dict[str, type[Part]], dict[str, str]]:
    """Return the parts of a kind by name, and by name why others cannot be used.

    Those are the parts of any kind whose package is broken, and names that a source knows and does not support.
    """
    parts: dict[str, type[Part]] = {}
    unusable: dict[str, str] = {}
    for name in PART_REGISTRY:
        try:
            part = PART_REGISTRY[name]
        except UnusableError as error:
            unusable[name] = f"{error} {error.fix}"
            continue
        if issubclass(part, KINDS[PLURALS[kinds]]):
            parts[f"{name}NAME" if name.endswith("/") else name] = part
            for other, (reason, instead) in part.refused.items():
                better = instead if "/" in instead else f"{part.source}/{instead}"
                unusable[f"{part.source}/{other}"] = f"{part.source}/{other} cannot be had: {reason}. Use {better}."
    return parts, unusable


def _format_fields(part: type[Part], name: str) -> list[str]:
    """Return the fields with their defaults, as a spec writes them: `dropout: 0.0`."""
    fields = {key: field for key, field in get_fields(part).items() if not (part.source and key == "name")}
    defaults = part.defaults.get(name.partition("/")[2])
    if defaults is None:
        defaults = {key: field.attribute.default for key, field in fields.items()}
    lines = []
    for key, default in defaults.items():
        if isinstance(default, tuple):
            default = dict(default) if fields[key].wanted is OPTIONS else list(default)
        lines.append(f"{key} (required)" if fields[key].required else dump({key: default}).rstrip("\n"))
    return lines


def _describe_part(part: type[Part], name: str) -> str:
    """Return the line of a source on this name, or else the first line of the part's docstring."""
    return part.names[name.partition("/")[2]] if part.names else (part.__doc__ or "").strip().split("\n")[0]


def _describe_installation(source: str) -> str:
    """Return in one line the library that a source needs, and whether it is installed."""
    library = LIBRARIES[source]
    state = "is installed" if library.is_installed() else f"is not installed: pip install {library.requirement}"
    return f"{source}/… needs {library.package}, which {state}"


def find_encoder_names(pattern: str) -> list[str]:
    """Return the names of encoders that match `pattern`, as a spec writes them: `timm/resnet50`.

    transformers is imported where the pattern may match one of its names; timm has a catalogue.
    """
    names = [name for source in UNLISTED_SOURCES if _is_possible(pattern, source) for name in _list_source(source)]
    names += [name for name in list_parts("encoders")[0] if name.removesuffix("/NAME") not in UNLISTED_SOURCES]
    return [name for name in names if is_match(name, pattern)]


def _list_source(source: str) -> list[str]:
    """List all names of a source where they can be found out."""
    library = LIBRARIES[source]
    if source == "timm" and library.format_versions() in (None, f"timm-{get_catalogue_version()}"):
        return [f"timm/{name}" for name in list_networks()]
    return [f"{source}/{name}" for name in get_adapter(source).list_networks()] if library.is_installed() else []


def _is_possible(pattern: str, source: str) -> bool:
    """Return whether a pattern may match a name of a source, judged by its beginning."""
    beginning = re.split(r"[*?\[]", pattern.lower(), maxsplit=1)[0]
    return beginning.startswith(f"{source}/") or (f"{source}/".startswith(beginning) and beginning != pattern.lower())


def _log_notes(pattern: str, names: Sequence[str]) -> None:
    """Print to stderr the libraries of the names that match a pattern, and the names that match and cannot be used."""
    missing = [one for one in UNLISTED_SOURCES if _is_possible(pattern, one) and not LIBRARIES[one].is_installed()]
    for source in dict.fromkeys([*(name.partition("/")[0] for name in names), *missing]):
        if source in LIBRARIES:
            log(_describe_installation(source))
    unusable = [name for name in list_parts("encoders")[1] if is_match(name, pattern)]
    if names and unusable:
        log(f"cannot be had, and list encoders NAME says why: {', '.join(unusable)}")


def explain_code(code: str | None) -> None:
    """Print the explanation of a code, or a table of all codes. Raises UsageError for an unknown code."""
    codes = read_codes()
    if code is not None:
        if code not in codes:
            raise UsageError(f"there is no error code {code!r}; {suggest(code, codes)}")
        print_text(f"{code}: {codes[code]}")
        return
    table = build_table("code", "meaning")
    for name, text in codes.items():
        table.add_row(name, text.split("\n")[0])
    print_text(f"{render(table)}\n\npython -m composer explain CODE prints an example and what to do.")


def read_codes() -> dict[str, str]:
    """Return for each error code three lines: its meaning, an example, and what to do."""
    import yaml

    codes: dict[str, str] = yaml.safe_load(Path(__file__).with_name("codes.yaml").read_text(encoding="utf-8"))
    return codes


def write_matrix(encoders: Sequence[str], decoders: Sequence[str], form: str, out: str | None, jobs: int) -> None:
    """Evaluate the pairs of all encoders and decoders that match the patterns; write them to `out` or to stdout.

    Raises UsageError for a pattern that nothing matches, and for a file that cannot be written.
    """
    format_pairs, suffix = {"table": (as_table, ".txt"), "csv": (as_csv, ".csv"), "json": (as_json, ".json")}[form]
    path = None if out is None else check_writable(out, (suffix,))
    pairs = evaluate_matrix(encoders, decoders, jobs)
    write_text(format_pairs(pairs), out, path)
    if path is not None:
        log(format_summary(pairs))


def evaluate_matrix(encoders: Sequence[str], decoders: Sequence[str], jobs: int) -> list[PairResult]:
    """Pair the encoders and decoders that match any of the patterns, encoder by encoder, in `jobs` processes.

    Progress is shown on stderr. Raises UsageError for a pattern that nothing matches.
    """
    from rich.console import Console
    from rich.progress import track

    known = list_decoder_names(PART_REGISTRY)
    names: dict[str, None] = {}
    for pattern in decoders:
        matching = [name for name in known if is_match(name, pattern)]
        if not matching:
            raise UsageError(f"no decoder is named {pattern!r}; there are {', '.join(known)}")
        names |= dict.fromkeys(matching)
    parts = {name: encoder for pattern in encoders for name, encoder in _find_encoders(pattern).items()}
    rows = _compute_rows([(encoder, tuple(names)) for encoder in parts.values()], jobs)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    shown = track(rows, "encoders paired", len(parts), console=console, transient=True, disable=hidden)
    return [pair for row in shown for pair in row]


def _find_encoders(pattern: str) -> dict[str, ProbedEncoder]:
    """Return the encoders that match, by name; a name without stars need not be listed.

    Raises UsageError where there is none.
    """
    encoders = {}
    for name in find_encoder_names(pattern) or ([] if set(pattern) & set("*?[") else [pattern]):
        source, slash, network = name.partition("/")
        part = PART_REGISTRY.get(name) or PART_REGISTRY.get(source + slash)
        if part is not None and issubclass(part, ProbedEncoder) and network:
            encoders[name] = part(network)  # type: ignore[call-arg]
    if not encoders:
        raise UsageError(f"no encoder is named {pattern!r}; a pattern has stars, in quotes: 'timm/*resnet*'")
    return encoders


def _compute_rows(work: Sequence[tuple[ProbedEncoder, tuple[str, ...]]], jobs: int) -> Iterator[tuple[PairResult, ...]]:
    processes = min(jobs, len(work) // CHUNK)
    if processes < 2:
        yield from map(_compute_row, work)
        return
    # Ctrl-C reaches all processes of a terminal. Those of the pool ignore it from their start; this one ends them.
    with handle_interrupts(signal.SIG_IGN):
        pool = multiprocessing.get_context("spawn").Pool(processes, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with pool:
        yield from pool.imap(_compute_row, work, chunksize=CHUNK)


def _compute_row(work: tuple[ProbedEncoder, tuple[str, ...]]) -> tuple[PairResult, ...]:
    encoder, decoders = work
    return evaluate_pairs(encoder, {name: PART_REGISTRY[name] for name in decoders}, describe)


def as_csv(pairs: Sequence[PairResult]) -> str:
    """Format a line for each pair; lists and mappings in it are JSON, and empty where there are none."""
    out = io.StringIO()
    records = list(map(_build_record, pairs))
    writer = csv.DictWriter(out, records[0], lineterminator="\n")
    writer.writeheader()
    for record in records:
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in record.items() if value
        }
        writer.writerow(texts)
    return out.getvalue()


def as_json(pairs: Sequence[PairResult]) -> str:
    """Format a list with an object for each pair."""
    return json.dumps(list(map(_build_record, pairs)), indent=2) + "\n"


def _build_record(pair: PairResult) -> dict[str, Any]:
    """Return a pair as plain values: names, verdict, levels, necks, fields of the decoder, reason."""
    necks = [(get_part_name(neck), get_written_fields(neck)) for neck in pair.necks]
    return {
        "encoder": get_part_name(pair.encoder),
        "decoder": get_part_name(pair.decoder),
        "verdict": pair.verdict,
        "out_indices": pair.levels and list(pair.levels),
        "necks": [{name: fields} if fields else name for name, fields in necks],
        "fields": get_written_fields(pair.decoder),
        "because": pair.because,
    }


def as_table(pairs: Sequence[PairResult]) -> str:
    """Format a table for people: each pair, or of many pairs the count of each verdict per decoder; then a summary."""
    body = _format_pairs(pairs) if len(pairs) <= MAX_LISTED_PAIRS else _format_counts(pairs)
    return f"{body}\n\n{format_summary(pairs)}\n"


def format_summary(pairs: Sequence[PairResult]) -> str:
    """Return the number of pairs of each verdict."""
    encoders = len({get_part_name(pair.encoder) for pair in pairs})
    sides = ((encoders, "encoder"), (len(pairs) // encoders, "decoder"))
    product = " × ".join(format_count(*side, form=",") for side in sides)
    counts = Counter(pair.verdict for pair in pairs)
    lines = [f"{sign} {counts[verdict]:,} {meaning}" for verdict, (sign, meaning) in LEGEND.items()]
    return "\n".join([f"{product}, {format_count(len(pairs), 'pair', form=',')}:", *lines])


def _format_pairs(pairs: Sequence[PairResult]) -> str:
    table = build_table("encoder", "decoder", "", "what it takes, or why not")
    for column in table.columns[:2]:
        column.no_wrap = True
    previous = ""
    for pair in pairs:
        encoder = get_part_name(pair.encoder)
        levels = [f"out_indices: {list(pair.levels)}"] if pair.levels else []
        necks = [f"necks: [{', '.join(map(format_part, pair.necks))}]"] if pair.necks else []
        reason = pair.because or "; ".join([*levels, *necks])
        name = "" if encoder == previous else encoder
        table.add_row(name, get_part_name(pair.decoder), LEGEND[pair.verdict][0], reason)
        previous = encoder
    return render(table)


def _format_counts(pairs: Sequence[PairResult]) -> str:
    counts = Counter((get_part_name(pair.decoder), pair.verdict) for pair in pairs)
    table = build_table("decoder")
    for sign, _ in LEGEND.values():
        table.add_column(sign, justify="right")
    for decoder in dict.fromkeys(decoder for decoder, _ in counts):
        table.add_row(decoder, *(f"{counts[decoder, verdict]:,}" for verdict in LEGEND))
    return f"{render(table)}\n\nFor each pair: --format csv or --format json."
