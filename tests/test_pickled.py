"""Pickles in files of torch: they are read as data, and nothing in them is ever run."""

import builtins
import copyreg
import json
import os
import pickle
import pickletools
import subprocess
import zipfile
from contextlib import suppress

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from composer.tensors.files import UnreadableError, read_tensor_file
from tests.bounded import bounded


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Read the tensors of a file whose pickle is given."""
    file = tmp_path_factory.mktemp("pickled") / "model.pt"

    def read(pickled):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", pickled)
            archive.writestr("a/data/0", bytes(16))
        return read_tensor_file(file)

    return read


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
def test_nothing_is_run(written, canary, read):
    with pytest.raises(UnreadableError):
        read(written(str(canary)))
    assert not canary.exists()


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.usefixtures("extension")
def test_nothing_is_looked_up(written, canary, read, monkeypatch):
    pickled = written(str(canary))
    with suppress(UnreadableError):
        read(pickled)
    looked_up = []

    def look_up(name, *_, **__):
        looked_up.append(name)
        raise ImportError(name)

    with monkeypatch.context() as patched, suppress(UnreadableError):
        patched.setattr(builtins, "__import__", look_up)
        read(pickled)
    assert looked_up == []


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
    b"X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89}tR"
)
WHOLE = b"\x80\x02}(X\x01\x00\x00\x00a" + TENSOR + b"X\x01\x00\x00\x00b" + TENSOR + b"u."


def test_the_pickle_below_is_of_two_tensors(read):
    assert {name: x.tolist() for name, x in read(WHOLE).items()} == {"a": [0] * 4, "b": [0] * 4}


@given(edits=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@example(edits=[(0, 255)])
@example(edits=[(len(WHOLE) - 1, 0)])
def test_a_damaged_pickle_is_refused_or_read_as_something_else(edits, read):
    """Whatever stands there: no other exception."""
    spoiled = bytearray(WHOLE)
    for at, byte in edits:
        spoiled[at] = byte
    with suppress(UnreadableError):
        read(bytes(spoiled))


PIECES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes] + [TENSOR]


@given(program=st.lists(st.sampled_from(PIECES), max_size=40), tail=st.binary(max_size=20))
def test_any_program_is_refused_or_read(program, tail, read):
    with suppress(UnreadableError):
        read(b"".join(program) + tail)


@pytest.mark.parametrize("protocol", [2, 4])
def test_names_with_halves_of_letters_are_printable(read, protocol):
    with pytest.raises(UnreadableError) as caught:
        read(pickle.dumps({"a\udc80": [], "b": 1}, protocol)[:-1] + b"X\x01\x00\x00\x00c" + TENSOR + b"s.")
    assert str(caught.value) == "holds tensors by name beside 2 other values (a\\udc80, b)"


def test_too_little_memory_is_no_damage(read, monkeypatch):
    def build(*_):
        raise MemoryError

    monkeypatch.setattr("composer.tensors.files._create_object", build)
    with pytest.raises(MemoryError):
        read(WHOLE)


DAMAGED = "is damaged, or was not written by torch.save"
NO_TENSORS = "holds no tensors by name"
LONG = "has a pickle of more than 750,000 steps"
DEEP = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(60))
"""A tuple of twice a tuple of twice a tuple: small in memory, and whoever hashes or prints it never ends."""
LONG_NAME = b"X" + (2**25).to_bytes(4, "little") + b"a" * 2**25
ONE_HASH = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(100_000))
ENDLESS = {
    "nothing": (b"", DAMAGED),
    "no end": (WHOLE[:-1], DAMAGED),
    "a key": (b"\x80\x02" + DEEP + b"}h\x3cNs.", NO_TENSORS),
    "keys of an object": (b"\x80\x02" + DEEP + b"ca\nb\n)R(h\x3cNu.", NO_TENSORS),
    "pairs of a dict": (b"\x80\x02" + DEEP + b"ccollections\nOrderedDict\n](h\x3cN\x86e\x85R.", NO_TENSORS),
    "instruction DICT": (b"\x80\x02" + DEEP + b"(h\x3cNd.", DAMAGED),
    "a module": (b"\x80\x04" + DEEP + b"h\x3c\x8c\x01a\x93.", DAMAGED),
    "a name": (b"\x80\x04" + DEEP + b"\x8c\x01ah\x3c\x93.", DAMAGED),
    "a function": (b"\x80\x02" + DEEP + b"h\x3ch\x3cR.", NO_TENSORS),
    "a set": (b"\x80\x04" + DEEP + b"\x8f(h\x3c\x90.", NO_TENSORS),
    "a frozen set": (b"\x80\x04" + DEEP + b"(h\x3c\x91.", NO_TENSORS),
    "an identifier": (b"\x80\x02" + DEEP + b"h\x3cQ.", NO_TENSORS),
    "3 GB of bytes": (b"\x80\x05\x96" + (3 * 2**30).to_bytes(8, "little") + b".", DAMAGED),
    "a frame of 3 GB": (b"\x80\x05\x95" + (3 * 2**30).to_bytes(8, "little") + b"N.", NO_TENSORS),
    "memory at 2^31": (b"\x80\x02K\x01r\xff\xff\xff\x7f.", NO_TENSORS),
    "state of a function": (b"\x80\x02cos\nsystem\n}b.", NO_TENSORS),
    "state of a tensor": (b"\x80\x02" + TENSOR + b"}X\x04\x00\x00\x00dataNsb.", NO_TENSORS),
    "entries of a tensor": (b"\x80\x02" + TENSOR + b"K\x00K\x01s.", NO_TENSORS),
    "a tensor as a function": (b"\x80\x02" + TENSOR + TENSOR + b"\x85R.", NO_TENSORS),
    "numbers of one hash": (b"\x80\x02}(" + ONE_HASH + b"u.", NO_TENSORS),
    "a long name, often": (
        b"\x80\x04" + LONG_NAME + b"\x94\x8c\x01a\x94" + b"h\x00h\x01\x930h\x01h\x00\x930" * 50_000 + b"N.",
        NO_TENSORS,
    ),
    "a long key, often": (b"\x80\x04}(" + LONG_NAME + b"\x94N" + b"h\x00N" * 200_000 + b"u.", NO_TENSORS),
    "one dict under many names": (
        b"\x80\x02}q\0("
        + b"".join(b"X\3\0\0\0%03dN" % k for k in range(1000))
        + b"u}("
        + b"".join(b"X\5\0\0\0%05dh\0" % k for k in range(99_999))
        + b"u.",
        "holds more than 750,000 values by name",
    ),
    "marks": (b"\x80\x02" + b"(" * 2**22 + b".", LONG),
    "sets": (b"\x80\x04" + b"\x8f" * 2**22 + b".", LONG),
    "tuples": (b"\x80\x02)" + b"\x85" * 2**22 + b".", LONG),
    "tensors": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0"
        + TENSOR[TENSOR.index(b"((") : -1]
        + b"q\1"
        + b"0h\0h\1R" * 2**18
        + b".",
        LONG,
    ),
    "many bytes": (b"\x80\x02" + b"N0" * 2**25 + b"N.", "has a pickle of more than 67,108,864 bytes"),
}
READ = """
import json, os, resource, sys
from pathlib import Path
from composer.tensors.files import UnreadableError
from composer.tensors.files import read_tensor_file

def read(file):
    try:
        read_tensor_file(Path(file))
    except UnreadableError as error:
        return str(error)

def answer(file):
    reader, writer = os.pipe()
    if os.fork() == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
        os.write(writer, json.dumps(read(file)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answered:
        text = answered.read()
    os.wait()
    return json.loads(text or '"it did not end"')

print(json.dumps([answer(file) for file in sys.argv[1:]]))
"""
"""Reads each file in a child of its own, which the system ends after 20 seconds of a core; torch is imported once."""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What reading each of the endless pickles says."""
    folder = tmp_path_factory.mktemp("endless")
    files = [folder / f"{number}.pt" for number in range(len(ENDLESS))]
    for file, (written, _) in zip(files, ENDLESS.values(), strict=True):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a/data.pkl", written)
            archive.writestr("a/data/0", bytes(16))
    return dict(zip(ENDLESS, json.loads(bounded(READ, *map(str, files), seconds=240)), strict=True))


@pytest.mark.parametrize("name", ENDLESS)
def test_a_hostile_pickle_ends_with_one_error(answers, name):
    assert answers[name] == ENDLESS[name][1]


def test_depth_is_no_danger(read):
    with pytest.raises(UnreadableError, match=f"^{NO_TENSORS}$"):
        read(b"\x80\x02)" + b"\x85" * 50_000 + b".")
