"""Which of all the inputs that something is tried with it takes, which it refuses, and which it cannot run."""

from __future__ import annotations

from collections.abc import Iterable

from composer.contracts import Outputs, Rejection
from composer.testing.inputs import ClassifiedInputs, Inputs
from composer.testing.subjects import Subject, run_query


def classify_inputs(subject: Subject, candidates: Iterable[Inputs]) -> ClassifiedInputs:
    """What a subject says of each candidate. Raises CannotBeHeld where saying it fails."""
    accepted, refused, untaken = [], [], []
    for inputs in candidates:
        outcome = run_query(subject, inputs)
        if isinstance(outcome, Outputs):
            accepted.append(inputs)
        elif isinstance(outcome, Rejection):
            refused.append(inputs)
        else:
            untaken.append(inputs)
    others = (*refused, *untaken)
    return ClassifiedInputs(
        accepted=tuple(accepted),
        refused=tuple(refused),
        untaken=tuple(untaken),
        reason=subject.explain_rejection(others[0]) if others else "",
        fault=subject.fault(accepted, untaken),
    )
