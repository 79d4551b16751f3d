"""A pickle read as data. It is a program for a little machine; here that machine runs with nothing in it to call.

Texts, numbers, lists and dicts become what they are. A class or function that a pickle names becomes its name, and
what it would make of its arguments becomes a note of both. So nothing is imported, called, hashed, compared or given
attributes, whatever stands in the file; and the machine takes no more than `MOST_INSTRUCTIONS` steps.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen

from composer.tensors.instructions import INSTRUCTIONS_BY_CODE, STOP_CODE, Machine
from composer.tensors.mentioned import PersistentRef
from composer.tensors.unreadable import UnreadableError

MAX_INSTRUCTIONS = 2**20
"""How many steps are taken, in about half a second: a checkpoint has 31 for each tensor, so this is of 33,000."""

MAX_PICKLE_BYTES = 2**26
"""How long a pickle may be. A checkpoint has 90 bytes for each tensor, and what it remembers of its training."""


def read_pickle(pickle: bytes) -> Any:
    """What a pickle says; of a dict, what stands under keys that are texts, and under None one that stands elsewhere.

    Whatever follows it is left alone. Raises UnreadableError where it says nothing whole, or is too long.
    """
    return read_pickle_at(pickle, 0).value


def refuse_long_pickle(length: int) -> None:
    """Raise UnreadableError for a pickle of so many bytes, before anybody reads them."""
    if length > MAX_PICKLE_BYTES:
        raise UnreadableError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes", _STATE_DICT_HINT)


@frozen
class PickleResult:
    """What one of several pickles says, where it ends, and what it mentions outside."""

    value: Any
    end: int
    outside: tuple[PersistentRef, ...]


def read_pickle_at(pickle: bytes, start: int, most: int = MAX_INSTRUCTIONS) -> PickleResult:
    """What the pickle says that begins at `start`. It may have `most` instructions."""
    machine = Machine(pickle, start, min(len(pickle), start + MAX_PICKLE_BYTES))
    steps = 0
    try:
        # A loop of few names, because this is where all the time goes.
        while (code := machine.pickle[machine.at]) != STOP_CODE:
            machine.at += 1
            INSTRUCTIONS_BY_CODE[code](machine)
            steps += 1
            if steps > most:
                raise UnreadableError(f"has a pickle of more than {most:,} instructions", _STATE_DICT_HINT)
        return PickleResult(machine.stack.pop(), machine.at + 1, tuple(machine.outside))
    except (UnreadableError, MemoryError):
        raise
    # Whatever a damaged pickle makes the machine stumble over: the stack runs dry, a number has no list to go to.
    except Exception as error:
        if machine.end <= machine.at < len(pickle):
            raise UnreadableError(f"has a pickle of more than {MAX_PICKLE_BYTES:,} bytes", _STATE_DICT_HINT) from error
        where = "ends too early" if machine.at >= len(pickle) else f"makes no sense at byte {machine.at}"
        raise UnreadableError(f"is damaged (its pickle {where})") from error


_STATE_DICT_HINT = "save the state dict alone: torch.save(model.state_dict(), file)"
