"""Which of all the inputs that something is tried with it takes, which it refuses, and which it cannot run."""

from __future__ import annotations

from collections.abc import Iterable

from composer.contracts import Promise, Refusal
from composer.testing.inputs import Inputs, Tried
from composer.testing.subjects import Subject, asked


def sorted_out(subject: Subject, candidates: Iterable[Inputs]) -> Tried:
    """What a subject says of each candidate. Raises CannotBeHeld where saying it fails."""
    accepted, refused, untaken = [], [], []
    for inputs in candidates:
        outcome = asked(subject, inputs)
        if isinstance(outcome, Promise):
            accepted.append(inputs)
        elif isinstance(outcome, Refusal):
            refused.append(inputs)
        else:
            untaken.append(inputs)
    others = (*refused, *untaken)
    return Tried(
        accepted=tuple(accepted),
        refused=tuple(refused),
        untaken=tuple(untaken),
        reason=subject.why_not(others[0]) if others else "",
        fault=subject.fault(accepted, untaken),
    )
