"""Read pickles as data: nothing in them is imported or called."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

SAVE_AGAIN_HINT = "save or copy it again"


SAVE_STATE_DICT_HINT = "save the state dict: torch.save(model.state_dict(), file)"


class UnreadableError(ValueError):
    """What is wrong with a file, as what is said after its name: `is damaged (it is cut off)`. `repair` mends it."""

    def __init__(self, message: str, repair: str = SAVE_AGAIN_HINT) -> None:
        super().__init__(message)
        self.repair = repair


@frozen
class GlobalRef:
    """A class or a function that the pickle names: `collections.OrderedDict`. It was not looked up."""

    name: str


@frozen
class PersistentRef:
    """What stands outside the pickle, by the identifier that it has there."""

    identifier: Any


@define(eq=False)
class ReducedCall:
    """What `made_by` would have made of `arguments`, and what was then put in it. It was not called."""

    made_by: Any
    arguments: Any
    entries: dict[str | None, Any] = field(factory=dict)


_Instruction = Callable[["Machine"], object]


@define
class Machine:
    """The stack and the memory of a pickle that is being read, and how far that is."""

    pickle: bytes
    at: int
    end: int
    stack: list[Any] = field(factory=list)
    marks: list[int] = field(factory=list)
    memory: dict[int, Any] = field(factory=dict)
    names: dict[bytes, GlobalRef] = field(factory=dict)
    outside: list[PersistentRef] = field(factory=list)

    def taken(self, count: int) -> bytes:
        """The next bytes of the pickle."""
        start = self.at
        self.at += count
        if self.at > self.end:
            self.at = self.end
            raise ValueError
        return self.pickle[start : self.at]

    def number(self, size: int) -> int:
        """The next bytes as a number."""
        return int.from_bytes(self.taken(size), "little")

    def lines(self) -> bytes:
        """The rest of the line, and the next one."""
        first = self.pickle.find(b"\n", self.at, self.end)
        second = self.pickle.find(b"\n", first + 1, self.end) if first >= 0 else -1
        return self.taken((second if second >= 0 else self.end) + 1 - self.at)

    def collect_marked(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def _make_sized_reader(size: int) -> Callable[[Machine], bytes]:
    """Bytes, and before them how many there are."""
    return lambda machine: machine.taken(machine.number(size))


def _push_text(size: int) -> _Instruction:
    read = _make_sized_reader(size)
    # Texts with halves of letters in them can be pickled, and nobody can print them. Two of them stay two.
    return lambda machine: machine.stack.append(read(machine).decode("utf-8", "backslashreplace"))


def _push_bytes(size: int) -> _Instruction:
    read = _make_sized_reader(size)
    return lambda machine: machine.stack.append(read(machine))


def _push_unsigned(size: int) -> _Instruction:
    return lambda machine: machine.stack.append(machine.number(size))


def _push_signed(read: Callable[[Machine], bytes]) -> _Instruction:
    return lambda machine: machine.stack.append(int.from_bytes(read(machine), "little", signed=True))


def _push_float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.taken(8))[0])


def _push_constant(value: Any) -> _Instruction:
    return lambda machine: machine.stack.append(value)


def _push_new(kind: Callable[[], Any]) -> _Instruction:
    return lambda machine: machine.stack.append(kind())


def _store_memo(size: int) -> _Instruction:
    def store_value(machine: Machine) -> None:
        machine.memory[machine.number(size)] = machine.stack[-1]

    return store_value


def _append_memo(machine: Machine) -> None:
    machine.memory[len(machine.memory)] = machine.stack[-1]


def _push_memo(size: int) -> _Instruction:
    return lambda machine: machine.stack.append(machine.memory[machine.number(size)])


def _set_items(machine: Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, ReducedCall) else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Hashes of tuples go as deep as these do, and numbers can be chosen that all have the same.
        entries[key if isinstance(key, str) else None] = value


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _set_items(machine, [key, value])


def _append_items(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(values)


def _push_call(machine: Machine) -> None:
    arguments, made_by = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(ReducedCall(made_by, arguments))


def _push_call_with_names(machine: Machine) -> None:
    machine.stack.pop()
    _push_call(machine)


def _push_global(machine: Machine) -> None:
    lines = machine.lines()
    if lines not in machine.names:
        machine.names[lines] = GlobalRef(lines[:-1].decode("utf-8", "replace").replace("\n", ".", 1))
    machine.stack.append(machine.names[lines])


def _push_stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError
    machine.stack.append(GlobalRef(f"{module}.{name}"))


def _push_persistent_ref(machine: Machine) -> None:
    mentioned = PersistentRef(machine.stack.pop())
    machine.outside.append(mentioned)
    machine.stack.append(mentioned)


def _build_tuple1(machine: Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


def _build_tuple2(machine: Machine) -> None:
    last = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], last)


def _build_tuple3(machine: Machine) -> None:
    last, second = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], second, last)


def _skip_bytes(size: int) -> _Instruction:
    """How the rest is laid out is no news."""
    return lambda machine: machine.taken(size)


_PUSHED_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


_INSTRUCTIONS_BY_NAME: dict[str, _Instruction] = {
    "PROTO": _skip_bytes(1),
    "FRAME": _skip_bytes(8),
    **{name: _push_constant(value) for name, value in _PUSHED_CONSTANTS.items()},
    "BININT1": _push_unsigned(1),
    "BININT2": _push_unsigned(2),
    "BININT": _push_signed(lambda machine: machine.taken(4)),
    "LONG1": _push_signed(_make_sized_reader(1)),
    "LONG4": _push_signed(_make_sized_reader(4)),
    "BINFLOAT": _push_float,
    "SHORT_BINUNICODE": _push_text(1),
    "BINUNICODE": _push_text(4),
    "BINUNICODE8": _push_text(8),
    # The texts of Python 2, which wrote many of the files of an earlier torch.
    "SHORT_BINSTRING": _push_text(1),
    "BINSTRING": _push_text(4),
    "SHORT_BINBYTES": _push_bytes(1),
    "BINBYTES": _push_bytes(4),
    "BINBYTES8": _push_bytes(8),
    "BYTEARRAY8": _push_bytes(8),
    "BINPUT": _store_memo(1),
    "LONG_BINPUT": _store_memo(4),
    "MEMOIZE": _append_memo,
    "BINGET": _push_memo(1),
    "LONG_BINGET": _push_memo(4),
    "MARK": lambda machine: machine.marks.append(len(machine.stack)),
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": Machine.collect_marked,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.collect_marked())),
    "TUPLE1": _build_tuple1,
    "TUPLE2": _build_tuple2,
    "TUPLE3": _build_tuple3,
    "EMPTY_LIST": _push_new(list),
    "EMPTY_SET": _push_new(list),
    "EMPTY_DICT": _push_new(dict),
    "FROZENSET": lambda machine: machine.stack.append(machine.collect_marked()),
    "APPEND": lambda machine: _append_items(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine: _append_items(machine, machine.collect_marked()),
    "ADDITEMS": lambda machine: _append_items(machine, machine.collect_marked()),
    "SETITEM": _set_item,
    "SETITEMS": lambda machine: _set_items(machine, machine.collect_marked()),
    "GLOBAL": _push_global,
    "STACK_GLOBAL": _push_stack_global,
    "REDUCE": _push_call,
    "NEWOBJ": _push_call,
    "NEWOBJ_EX": _push_call_with_names,
    # What an object would remember of itself is of no interest here.
    "BUILD": lambda machine: machine.stack.pop(),
    "BINPERSID": _push_persistent_ref,
}
"""What each instruction does. The others name things by number, are of pickles that torch never wrote, or of memory
outside them.
"""


def _refuse_instruction(name: str) -> _Instruction:
    def raise_unreadable(machine: Machine) -> None:  # noqa: ARG001
        raise UnreadableError(f"is damaged (its pickle has an instruction {name})")

    return raise_unreadable


INSTRUCTIONS_BY_CODE: Mapping[int, _Instruction] = {
    ord(opcode.code): _INSTRUCTIONS_BY_NAME.get(opcode.name, _refuse_instruction(opcode.name))
    for opcode in pickletools.opcodes
}


STOP_CODE = ord(".")


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
