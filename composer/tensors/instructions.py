"""The instructions of pickles, for a machine that has nothing in it to call."""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from composer.tensors.mentioned import Made, Named, Outside
from composer.tensors.unreadable import UnreadableError

_Step = Callable[["Machine"], object]


@define
class Machine:
    """The stack and the memory of a pickle that is being read, and how far that is."""

    pickle: bytes
    at: int
    end: int
    stack: list[Any] = field(factory=list)
    marks: list[int] = field(factory=list)
    memory: dict[int, Any] = field(factory=dict)
    names: dict[bytes, Named] = field(factory=dict)
    outside: list[Outside] = field(factory=list)

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

    def since_mark(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def _counted(size: int) -> Callable[[Machine], bytes]:
    """Bytes, and before them how many there are."""
    return lambda machine: machine.taken(machine.number(size))


def _text(size: int) -> _Step:
    read = _counted(size)
    # Texts with halves of letters in them can be pickled, and nobody can print them. Two of them stay two.
    return lambda machine: machine.stack.append(read(machine).decode("utf-8", "backslashreplace"))


def _bytes(size: int) -> _Step:
    read = _counted(size)
    return lambda machine: machine.stack.append(read(machine))


def _unsigned(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.number(size))


def _signed(read: Callable[[Machine], bytes]) -> _Step:
    return lambda machine: machine.stack.append(int.from_bytes(read(machine), "little", signed=True))


def _float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.taken(8))[0])


def _constant(value: Any) -> _Step:
    return lambda machine: machine.stack.append(value)


def _fresh(kind: Callable[[], Any]) -> _Step:
    return lambda machine: machine.stack.append(kind())


def _remember(size: int) -> _Step:
    def step(machine: Machine) -> None:
        machine.memory[machine.number(size)] = machine.stack[-1]

    return step


def _memoize(machine: Machine) -> None:
    machine.memory[len(machine.memory)] = machine.stack[-1]


def _recall(size: int) -> _Step:
    return lambda machine: machine.stack.append(machine.memory[machine.number(size)])


def _put(machine: Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, Made) else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # Hashes of tuples go as deep as these do, and numbers can be chosen that all have the same.
        entries[key if isinstance(key, str) else None] = value


def _put_one(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _put(machine, [key, value])


def _add(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(values)


def _make(machine: Machine) -> None:
    arguments, made_by = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Made(made_by, arguments))


def _make_with_names(machine: Machine) -> None:
    machine.stack.pop()
    _make(machine)


def _named(machine: Machine) -> None:
    lines = machine.lines()
    if lines not in machine.names:
        machine.names[lines] = Named(lines[:-1].decode("utf-8", "replace").replace("\n", ".", 1))
    machine.stack.append(machine.names[lines])


def _named_by_stack(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(module, str) and isinstance(name, str)):
        raise TypeError
    machine.stack.append(Named(f"{module}.{name}"))


def _mention(machine: Machine) -> None:
    mentioned = Outside(machine.stack.pop())
    machine.outside.append(mentioned)
    machine.stack.append(mentioned)


def _tuple_of_one(machine: Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


def _tuple_of_two(machine: Machine) -> None:
    last = machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], last)


def _tuple_of_three(machine: Machine) -> None:
    last, second = machine.stack.pop(), machine.stack.pop()
    machine.stack[-1] = (machine.stack[-1], second, last)


def _skip(size: int) -> _Step:
    """How the rest is laid out is no news."""
    return lambda machine: machine.taken(size)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_STEPS: dict[str, _Step] = {
    "PROTO": _skip(1),
    "FRAME": _skip(8),
    **{name: _constant(value) for name, value in _CONSTANTS.items()},
    "BININT1": _unsigned(1),
    "BININT2": _unsigned(2),
    "BININT": _signed(lambda machine: machine.taken(4)),
    "LONG1": _signed(_counted(1)),
    "LONG4": _signed(_counted(4)),
    "BINFLOAT": _float,
    "SHORT_BINUNICODE": _text(1),
    "BINUNICODE": _text(4),
    "BINUNICODE8": _text(8),
    # The texts of Python 2, which wrote many of the files of an earlier torch.
    "SHORT_BINSTRING": _text(1),
    "BINSTRING": _text(4),
    "SHORT_BINBYTES": _bytes(1),
    "BINBYTES": _bytes(4),
    "BINBYTES8": _bytes(8),
    "BYTEARRAY8": _bytes(8),
    "BINPUT": _remember(1),
    "LONG_BINPUT": _remember(4),
    "MEMOIZE": _memoize,
    "BINGET": _recall(1),
    "LONG_BINGET": _recall(4),
    "MARK": lambda machine: machine.marks.append(len(machine.stack)),
    "POP": lambda machine: machine.stack.pop(),
    "POP_MARK": Machine.since_mark,
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": _tuple_of_one,
    "TUPLE2": _tuple_of_two,
    "TUPLE3": _tuple_of_three,
    "EMPTY_LIST": _fresh(list),
    "EMPTY_SET": _fresh(list),
    "EMPTY_DICT": _fresh(dict),
    "FROZENSET": lambda machine: machine.stack.append(machine.since_mark()),
    "APPEND": lambda machine: _add(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine: _add(machine, machine.since_mark()),
    "ADDITEMS": lambda machine: _add(machine, machine.since_mark()),
    "SETITEM": _put_one,
    "SETITEMS": lambda machine: _put(machine, machine.since_mark()),
    "GLOBAL": _named,
    "STACK_GLOBAL": _named_by_stack,
    "REDUCE": _make,
    "NEWOBJ": _make,
    "NEWOBJ_EX": _make_with_names,
    # What an object would remember of itself is of no interest here.
    "BUILD": lambda machine: machine.stack.pop(),
    "BINPERSID": _mention,
}
"""What each instruction does. The others name things by number, are of pickles that torch never wrote, or of memory
outside them.
"""


def _refused(name: str) -> _Step:
    def step(machine: Machine) -> None:  # noqa: ARG001
        raise UnreadableError(f"is damaged (its pickle has an instruction {name})")

    return step


BY_CODE: Mapping[int, _Step] = {
    ord(opcode.code): _STEPS.get(opcode.name, _refused(opcode.name)) for opcode in pickletools.opcodes
}
STOP = ord(".")
