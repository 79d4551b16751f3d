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
    reason = subject.why_not((*refused, *untaken)[0]) if not accepted and (refused or untaken) else ""
    return Tried(
        accepted=tuple(accepted),
        refused=tuple(refused),
        reason=reason,
        untaken=tuple((inputs, subject.why_not(inputs)) for inputs in untaken),
        fault=subject.fault(accepted, untaken),
    )
