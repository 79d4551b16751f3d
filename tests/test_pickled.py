"""Pickles read as data: they say what they say, and nothing in them is ever run."""

import builtins
import collections
import copyreg
import io
import os
import pickle
import pickletools
import subprocess
from contextlib import suppress

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from composer.tensors.pickles import (
    INSTRUCTIONS_BY_CODE,
    MAX_INSTRUCTIONS,
    GlobalRef,
    PersistentRef,
    ReducedCall,
    UnreadableError,
    read_pickle,
)
from tests.bounded import bounded

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]))
DATA = st.recursive(
    SCALARS,
    lambda data: st.lists(data) | st.dictionaries(KEYS, data) | st.tuples(data) | st.tuples(data, data, data, data),
    max_leaves=30,
)


@given(data=DATA, protocol=st.integers(2, 5))
@example(data=list(range(2000)), protocol=2)
@example(data=[2**3000, -(2**3000)], protocol=2)
@example(data={f"{number}": (number, [None]) for number in range(1500)}, protocol=2)
@example(data={f"{number}": (number, [None]) for number in range(1500)}, protocol=4)
def test_data_is_read_as_python_reads_it(data, protocol):
    written = pickle.dumps(data, protocol)
    read = read_pickle(written)
    assert read == pickle.loads(written)
    assert repr(read) == repr(data)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_are_read(protocol):
    """Before protocol 3 they are a call, which nobody makes."""
    assert read_pickle(pickle.dumps([b"", b"few", b"many" * 100], protocol)) == [b"", b"few", b"many" * 100]


def test_bytes_that_can_be_changed_are_bytes():
    """Of protocol 5; before, they are a call."""
    assert read_pickle(pickle.dumps([bytearray(b"few"), bytearray()], 5)) == [b"few", b""]


def test_texts_of_python_2_are_texts():
    long = b"b" * 300
    written = b"\x80\x02(U\x01aT" + len(long).to_bytes(4, "little") + long + b"t."
    assert read_pickle(written) == pickle.loads(written) == ("a", "b" * 300)


def test_texts_with_halves_of_letters_are_printable_and_differ():
    read = read_pickle(pickle.dumps(dict.fromkeys(["a\udc80", "a\udc81"], 1), 2))
    assert read == {"a\\xed\\xb2\\x80": 1, "a\\xed\\xb2\\x81": 1}


def test_too_little_memory_is_no_damage(monkeypatch):
    def step(_):
        raise MemoryError

    monkeypatch.setitem(INSTRUCTIONS_BY_CODE, ord("N"), step)
    with pytest.raises(MemoryError):
        read_pickle(pickle.dumps(None, 2))


def test_what_is_mentioned_twice_is_one_thing():
    inner = []
    first, second = read_pickle(pickle.dumps([inner, inner], 2))
    assert first is second


def test_what_holds_itself_is_read():
    data = [1]
    data.append(data)
    read = read_pickle(pickle.dumps(data, 2))
    assert read[1] is read


class Thing:
    def __init__(self):
        self.kept = [1, 2]


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_object_is_a_note_of_its_class(protocol):
    read = read_pickle(pickle.dumps(Thing(), protocol))
    assert (read.made_by, read.arguments, read.entries) == (GlobalRef(f"{__name__}.Thing"), (), {})


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_dict_of_another_class_shows_its_entries(protocol):
    read = read_pickle(pickle.dumps(collections.OrderedDict(a=1, b=collections.Counter("aab")), protocol))
    assert read.made_by == GlobalRef("collections.OrderedDict")
    assert read.entries["a"] == 1
    assert read.entries["b"].made_by == GlobalRef("collections.Counter")


@pytest.mark.parametrize("key", [(1, 2), 1, 1.5, True, b"a"], ids=repr)
def test_a_key_that_is_no_text_is_none(key):
    """The hash of a tuple looks at all that is in it, and numbers of the same hash are easily found."""
    assert read_pickle(pickle.dumps({key: "other", "one": 1}, 3)) == {None: "other", "one": 1}


def test_sets_are_lists():
    assert sorted(read_pickle(pickle.dumps({1, 2}, 4))) == [1, 2]
    assert sorted(read_pickle(pickle.dumps(frozenset({1, 2}), 4))) == [1, 2]


def test_what_stands_outside_is_its_identifier():
    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", 7) if isinstance(thing, Thing) else None

    written = io.BytesIO()
    Pickler(written, 2).dump([Thing()])
    assert read_pickle(written.getvalue()) == [PersistentRef(("storage", 7))]


class Calling:
    """Pickled, it is a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Remembering:
    """It acts when it is told what it was."""

    def __init__(self, canary):
        self.canary = canary

    def __setstate__(self, state):
        open(state["canary"], "w").close()


class Making:
    """It acts when it is made."""

    def __new__(cls, canary):
        open(canary, "w").close()
        return super().__new__(cls)

    def __getnewargs__(self):
        return (self.canary,)


def making(canary):
    made = object.__new__(Making)
    made.canary = canary
    return made


class Filling(dict):
    """It acts when something is put into it."""

    def __setitem__(self, key, value):
        open(value, "w").close()


HOSTILE = {
    "os.system": lambda canary: pickle.dumps(Calling(os.system, f"touch {canary}"), 2),
    "eval": lambda canary: pickle.dumps(Calling(eval, f"__import__('os').mkdir({canary!r})"), 2),
    "exec": lambda canary: pickle.dumps(Calling(exec, f"import os; os.mkdir({canary!r})"), 4),
    "os.mkdir": lambda canary: pickle.dumps(Calling(os.mkdir, canary), 5),
    "subprocess": lambda canary: pickle.dumps(Calling(subprocess.check_call, ["touch", canary]), 2),
    "torch.save": lambda canary: pickle.dumps(Calling(torch.save, 1, canary), 2),
    "state": lambda canary: pickle.dumps(Remembering(canary), 2),
    "new": lambda canary: pickle.dumps(making(canary), 2),
    "entries": lambda canary: pickle.dumps(Filling(canary=canary), 2),
    "nested": lambda canary: pickle.dumps({"a": [(Calling(os.system, f"touch {canary}"),)]}, 4),
    "as-a-key": lambda canary: pickle.dumps({Calling(os.system, f"touch {canary}"): 1}, 4),
    "old-style": lambda canary: f"(S'touch {canary}'\nios\nsystem\n.".encode(),
    "object": lambda canary: f"(cos\nsystem\nS'touch {canary}'\no.".encode(),
    "extension": lambda canary: b"\x80\x02\x82\x01" + pickle.dumps((f"touch {canary}",), 2)[2:-1] + b"R.",
}
"""Pickles that leave a file behind when Python reads them, each in another way."""


@pytest.fixture
def extension():
    """A number that stands for a function, which some program agreed on."""
    copyreg.add_extension("posix", "system", 1)
    yield
    copyreg.remove_extension("posix", "system", 1)


@pytest.fixture
def canary(tmp_path):
    return tmp_path / "canary"


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("extension")
def test_python_itself_would_run_it(written, canary):
    """What is tested below could happen."""
    with suppress(Exception):
        pickle.loads(written(str(canary)))
    assert canary.exists()


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("extension")
def test_nothing_is_run(written, canary):
    with suppress(UnreadableError):
        read_pickle(written(str(canary)))
    assert not canary.exists()


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("extension")
def test_nothing_is_looked_up(written, canary, monkeypatch):
    pickled = written(str(canary))
    looked_up = []

    def look_up(name, *_, **__):
        looked_up.append(name)
        raise ImportError(name)

    with monkeypatch.context() as patched, suppress(UnreadableError):
        patched.setattr(builtins, "__import__", look_up)
        read_pickle(pickled)
    assert looked_up == []


EARLY = "ends too early"
REFUSED = {
    "nothing": (b"", EARLY),
    "no-end": (pickle.dumps([1, 2], 2)[:-1], EARLY),
    "no-pickle": (b"\xff\x00", "makes no sense at byte 1"),
    "cut": (b"\x80\x02X\x10\x00\x00\x00abc", EARLY),
    "empty-stack": (b"\x80\x020.", "makes no sense at byte 3"),
    "no-mark": (b"\x80\x02t.", "makes no sense at byte 3"),
    "short-tuple": (b"\x80\x02K\x01\x86.", "makes no sense at byte 5"),
    "unknown-memory": (b"\x80\x02h\x05.", "makes no sense at byte 4"),
    "old-style": (b"(ios\nsystem\n.", "has an instruction INST"),
    "object": (b"(cos\nsystem\no.", "has an instruction OBJ"),
    "extension": (b"\x80\x02\x82\x01.", "has an instruction EXT1"),
    "long-number": (b"\x80\x02\x8b\xff\xff\xff\xff\x01\x01\x01\x01\x01.", EARLY),
    "long-text": (b"\x80\x02T\xff\xff\xff\xffabc.", EARLY),
    "memory-outside": (b"\x80\x05\x97.", "has an instruction NEXT_BUFFER"),
    "entries-of-a-number": (b"\x80\x02K\x01K\x02K\x03s.", "makes no sense at byte 9"),
    "name-of-a-tuple": (b"\x80\x04)\x8c\x01a\x93.", "makes no sense at byte 7"),
    "tuple-of-a-name": (b"\x80\x04\x8c\x01a)\x93.", "makes no sense at byte 7"),
}


@pytest.mark.parametrize(("written", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_whole_pickle_is_refused(written, said):
    with pytest.raises(UnreadableError, match=rf"^is damaged \(its pickle {said}\)$"):
        read_pickle(written)


WHOLE = pickle.dumps({"state_dict": collections.OrderedDict(a=Thing(), b=[1, (2, 3.5)]), "more": {"x": None}}, 2)


@given(st.data())
def test_a_damaged_pickle_is_refused_or_read_as_something_else(data):
    """Whatever stands there: no other exception, and no instruction that we do not know."""
    spoiled = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadableError):
        read_pickle(bytes(spoiled))


@given(st.lists(st.sampled_from([opcode.code for opcode in pickletools.opcodes]), max_size=40), st.binary(max_size=20))
def test_any_program_is_refused_or_read(program, tail):
    with suppress(UnreadableError):
        read_pickle("".join(program).encode("latin-1") + tail)


def test_a_number_for_memory_reserves_none():
    """Python's own reader makes room for as many things as the number says."""
    assert read_pickle(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1


LONG = {
    "marks": (b"(" * 5_000_000, "1,048,576 instructions"),
    "tuples": (b")" + b"\x85" * 1_048_576, "1,048,576 instructions"),
    "a text": (b"X" + (2**26).to_bytes(4, "little") + b"a" * 2**26, "67,108,864 bytes"),
    "a name": (b"c" + b"a" * 2**26 + b"\na\n", "67,108,864 bytes"),
}


@pytest.mark.parametrize(("program", "most"), LONG.values(), ids=LONG)
def test_a_pickle_may_not_be_of_any_length(program, most):
    with pytest.raises(UnreadableError, match=f"^has a pickle of more than {most}$") as caught:
        read_pickle(b"\x80\x02" + program + b".")
    assert caught.value.repair == "save the state dict alone: torch.save(model.state_dict(), file)"


def test_a_pickle_of_most_instructions_is_read():
    """Two of them push and tell the protocol; what ends it is none."""
    assert isinstance(read_pickle(b"\x80\x02)" + b"\x85" * (MAX_INSTRUCTIONS - 2) + b"."), tuple)


DEEP = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(60))
"""A tuple of twice a tuple of twice a tuple: small in memory, and whoever hashes or prints it never ends."""

UNENDING = {
    "a key": b"\x80\x02" + DEEP + b"}h\x3cNs.",
    "keys of what was made": b"\x80\x02" + DEEP + b"ca\nb\n)R(h\x3cNu.",
    "a module": b"\x80\x04" + DEEP + b"h\x3c\x8c\x01a\x93.",
    "a name": b"\x80\x04" + DEEP + b"\x8c\x01ah\x3c\x93.",
    "what makes": b"\x80\x02" + DEEP + b"h\x3ch\x3cR.",
    "a set": b"\x80\x04" + DEEP + b"\x8f(h\x3c\x90.",
    "an identifier": b"\x80\x02" + DEEP + b"h\x3cQ.",
    "numbers of one hash": b"\x80\x02}("
    + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(100_000))
    + b"u.",
}
READ = """
import sys
from composer.tensors.pickled import read_pickle
from composer.tensors.unreadable import UnreadableError
try:
    read_pickle(sys.stdin.buffer.read())
except UnreadableError:
    pass
"""


@pytest.mark.parametrize("written", UNENDING.values(), ids=UNENDING)
def test_what_would_never_end_ends(written):
    assert bounded(READ, given=written) == b""


def test_depth_is_no_danger():
    assert isinstance(read_pickle(b"\x80\x02)" + b"\x85" * 50_000 + b"."), tuple)


def test_entries_can_be_put_into_what_was_made():
    made = read_pickle(pickle.dumps(Filling(a="x"), 2))
    assert isinstance(made, ReducedCall)
    assert made.entries == {"a": "x"}
