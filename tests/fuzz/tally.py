"""What a soak has done so far: its figures and findings, kept in a file that is written whole or not at all."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attrs import Attribute, asdict, define, field, frozen
from rich.table import Table

from composer.files import write_atomically
from composer.layouts import format_count
from tests.fuzz.workers import Message


def _check_integer(_: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) is not int:
        raise ValueError(f"{attribute.name} must be a whole number (got {value!r})")


def _check_number(_: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) not in (int, float):
        raise ValueError(f"{attribute.name} must be a number (got {value!r})")


def _check_text(_: object, attribute: Attribute[Any], value: Any) -> None:
    if type(value) is not str:
        raise ValueError(f"{attribute.name} must be a text (got {value!r})")


def _check_counts(_: object, attribute: Attribute[Any], value: Any) -> None:
    if not all(type(count) is int for count in value.values()):
        raise ValueError(f"{attribute.name} must hold whole numbers (got {dict(value)!r})")


def get_versions() -> dict[str, str]:
    """What draws the texts that belong to a seed."""
    return {name: _get_version(name) for name in ("composer-vision", "hypothesis")}


def _get_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


@frozen
class Finding:
    """What was found: the law that does not hold, what tells the cause, the text, and how often it was met."""

    law: str = field(validator=_check_text)
    mark: str = field(validator=_check_text)
    said: str = field(validator=_check_text)
    text: str = field(validator=_check_text)


@define
class Stats:
    """The figures of a soak.

    `begun` holds the batches that are under way, each with the texts that are answered; `slowest` is the most that one
    text took of a core, in seconds. Another version of composer or of Hypothesis draws other texts by the same seed.
    """

    seed: int = field(validator=_check_integer)
    next: int = field(default=0, validator=_check_integer)
    begun: dict[int, int] = field(factory=dict, validator=_check_counts)
    verdicts: Counter[str] = field(factory=Counter, validator=_check_counts)
    codes: Counter[str] = field(factory=Counter, validator=_check_counts)
    found: dict[str, Finding] = field(factory=dict)
    times: Counter[str] = field(factory=Counter, validator=_check_counts)
    seconds: float = field(default=0.0, validator=_check_number)
    slowest: float = field(default=0.0, validator=_check_number)
    versions: dict[str, str] = field(factory=get_versions)

    def record(self, number: int, told: Message) -> Finding | None:
        """Count an answer. Gives a finding that is met for the first time."""
        self.begun[number] += 1
        self.verdicts[told.verdict] += 1
        self.codes.update(told.codes)
        self.slowest = max(self.slowest, told.seconds)
        if told.verdict != "found":
            return None
        key = f"{told.law} | {told.mark}"
        self.times[key] += 1
        if key in self.found:
            return None
        self.found[key] = Finding(told.law, told.mark, told.said, told.text)
        return self.found[key]

    @property
    def texts(self) -> int:
        """How many texts were tried."""
        return sum(self.verdicts.values())

    def build_table(self) -> Table:
        """The figures as they are shown at the end."""
        table = Table(
            title=f"{format_count(self.texts, 'text', form=',')} of seed {self.seed} in {self.seconds / 60:.1f} minutes"
        )
        table.add_column("what became of them")
        table.add_column("texts", justify="right")
        built = self.verdicts["run"]
        table.add_row("accepted", f"{self.verdicts['accepted'] + built:,}")
        table.add_row("  of these built and run", f"{built:,}")
        table.add_row("refused", f"{self.verdicts['refused']:,}")
        for code, count in self.codes.most_common():
            table.add_row(f"  [{code}]".replace("[", r"\["), f"{count:,}")
        table.add_row("found", f"{self.verdicts['found']:,}")
        for key, count in self.times.most_common():
            table.add_row(f"  {key}".replace("[", r"\["), f"{count:,}")
        table.add_row("seconds of a core that the slowest took", f"{self.slowest:.1f}")
        return table

    def save(self, file: Path) -> None:
        """Write the state, whole or not at all."""
        write_atomically(file, lambda partial: partial.write_text(json.dumps(asdict(self)), encoding="utf-8"))


def load_stats(file: Path) -> Stats:
    """The state that a file holds. Raises ValueError for a file that holds none, or one of other versions."""
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        data["begun"] = {int(number): done for number, done in data["begun"].items()}
        data["found"] = {key: Finding(**finding) for key, finding in data["found"].items()}
        data |= {name: Counter(dict(data[name])) for name in ("verdicts", "codes", "times")}
        tally = Stats(**data)
        written = ", ".join(f"{name} {one}" for name, one in data["versions"].items())
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} holds no state of a soak (got {type(error).__name__}: {error})") from error
    if tally.versions != get_versions():
        here = ", ".join(f"{name} {one}" for name, one in get_versions().items())
        raise ValueError(
            f"{file} is of {written}, which draw other texts than {here}; begin a new soak in another --folder"
        )
    return tally
