"""The refusal of weights that cannot be loaded."""

from __future__ import annotations

from composer.contracts.rules import Rejection
from composer.parts.weights import Pretrained, get_weights_file
from composer.tensors.matching import MismatchError


def reject_weights(expected: str, error: Exception, repair: str, source: Pretrained) -> Rejection:
    """Make a refusal of `error`. `repair` is the next step, unless the error itself has one; `source` is the field."""
    if isinstance(error, MismatchError):
        got = str(error)
        file = get_weights_file(source)
        repair = error.repair.replace("FILE", file[0]) if error.repair and file else repair
    else:
        # torch lists what does not fit from its second line on; the first few names tell which network it was.
        got = f"{type(error).__name__}: {' '.join(str(error).split())[:300] or 'no reason given'}"
    return Rejection(code="weights", kind="raises", expected=expected, got=got, repair=repair, about="pretrained")
