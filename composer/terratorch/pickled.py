"""A pickle read as data. It is a program for a little machine; here that machine runs with nothing in it to call.

Numbers, texts, lists and dicts become what they are. A class or function that a pickle names becomes its name, and
what it would make of its arguments becomes a note of both. So nothing is imported, called or given attributes,
whatever stands in the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

_Step = Callable[["_Machine", Any], object]
Scalar = str | int | float | bytes | bool | None


@frozen
class Named:
    """A class or a function that the pickle names: `collections.OrderedDict`. It was not looked up."""

    name: str


@frozen
class Outside:
    """What stands outside the pickle, by the identifier that it has there."""

    identifier: Any


@define(eq=False)
class Made:
    """What `made_by` would have made of `arguments`, and what was then put in it. It was not called."""

    made_by: Any
    arguments: Any
    entries: dict[Any, Any] = field(factory=dict)


class UnreadableError(Exception):
    """The pickle is damaged, or uses what only programs need."""


def read_pickle(pickle: bytes) -> Any:
    """What a pickle says. Raises UnreadableError where it says nothing whole."""
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            _step(opcode.name)(machine, argument)
        return machine.pop()
    except UnreadableError:
        raise
    # pickletools raises whatever it stumbles over, and so does the machine: the stack of a damaged pickle runs dry.
    except Exception as error:
        raise UnreadableError(f"{type(error).__name__}: {error}") from error


@define
class _Machine:
    """The stack and the memory of a pickle that is being read."""

    stack: list[Any] = field(factory=list)
    marks: list[int] = field(factory=list)
    memory: dict[int, Any] = field(factory=dict)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def since_mark(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def remember(self, key: int) -> None:
        self.memory[key] = self.stack[-1]


def _put(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, Made) else target
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # What is no plain key is of no interest here, and its hash might be anything.
        if isinstance(key, Scalar):
            entries[key] = value


def _add(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(values)


def _make(machine: _Machine, _: object) -> None:
    arguments, made_by = machine.pop(), machine.pop()
    machine.push(Made(made_by, arguments))


def _make_with_names(machine: _Machine, _: object) -> None:
    machine.pop()
    _make(machine, None)


def _named(machine: _Machine, argument: str) -> None:
    machine.push(Named(argument.replace(" ", ".", 1)))


def _named_by_stack(machine: _Machine, _: object) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(Named(f"{module}.{name}"))


def _tuple(size: int) -> _Step:
    def step(machine: _Machine, _: object) -> None:
        machine.push(tuple([machine.pop() for _ in range(size)][::-1]))

    return step


def _nothing(_: _Machine, __: object) -> None:
    """How the rest is laid out, and where it ends, is what pickletools sees to."""


def _constant(value: Any) -> _Step:
    return lambda machine, _: machine.push(value)


_VALUES = (
    "BINFLOAT BINBYTES BINBYTES8 BININT BININT1 BININT2 BINUNICODE BINUNICODE8 LONG1 LONG4 SHORT_BINBYTES "
    "SHORT_BINUNICODE"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_REMEMBERED = "BINPUT LONG_BINPUT"
_RECALLED = "BINGET LONG_BINGET"

_STEPS: dict[str, _Step] = {
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    **dict.fromkeys(_REMEMBERED.split(), _Machine.remember),
    **dict.fromkeys(_RECALLED.split(), lambda machine, key: machine.push(machine.memory[key])),
    **{name: _constant(value) for name, value in _CONSTANTS.items()},
    "PROTO": _nothing,
    "FRAME": _nothing,
    "STOP": _nothing,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memory)),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.since_mark(),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "FROZENSET": lambda machine, _: machine.push(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "APPEND": lambda machine, _: _add(machine, [machine.pop()]),
    "APPENDS": lambda machine, _: _add(machine, machine.since_mark()),
    "ADDITEMS": lambda machine, _: _add(machine, machine.since_mark()),
    "SETITEM": lambda machine, _: _put(machine, [machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: _put(machine, machine.since_mark()),
    "GLOBAL": _named,
    "STACK_GLOBAL": _named_by_stack,
    "REDUCE": _make,
    "NEWOBJ": _make,
    "NEWOBJ_EX": _make_with_names,
    # What an object would remember of itself is of no interest here.
    "BUILD": lambda machine, _: machine.pop(),
    "BINPERSID": lambda machine, _: machine.push(Outside(machine.pop())),
}
"""What each instruction does. The others name things by number, or are of pickles that torch never wrote."""


def _step(instruction: str) -> _Step:
    if instruction not in _STEPS:
        raise UnreadableError(f"it has an instruction {instruction}")
    return _STEPS[instruction]
