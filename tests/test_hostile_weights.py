"""Files of weights that are damaged, hostile or of rare kinds: read as data or refused with one problem, never run."""

from __future__ import annotations

import builtins
import copyreg
import json
import os
import pickle
import pickletools
import struct
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import composer
from composer.errors import SpecError
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead
from composer.tensors.files import UnreadableError, read_tensor_file
from tests.bounded import limit_seconds
from tests.checkpoints import GRAPH, state_of, unlike

FIRST, SECOND = "decoder.convs.0.0.bias", "decoder.convs.0.0.weight"
DOORS = {
    "load_weights": composer.load_weights,
    "load": lambda _, file: composer.load(file),
    "pretrained": lambda _, file: composer.build(
        composer.chain(Timm("test_resnet", out_indices=[1], pretrained=str(file)), EmbeddingHead())
    ),
}


def refused(file, door=composer.load_weights):
    """The one problem of a file, and no tensor of the model has changed."""
    model = composer.build(GRAPH, seed=8)
    before = state_of(model)
    with pytest.raises(SpecError) as caught:
        door(model, file)
    assert unlike(state_of(model), before) == []
    (problem,) = caught.value.problems
    return problem


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What `save` writes: the parts of a file of safetensors."""
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    composer.save(composer.build(GRAPH), file)
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors_of(header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def lying(**changes):
    return lambda header, body: safetensors_of({**header, FIRST: {**header[FIRST], **changes}}, body)


def telling(text):
    return lambda header, body: safetensors_of({**header, "__metadata__": {"composer.spec": text}}, body)


LIES = {
    "an offset outside": lying(data_offsets=[0, 2**60]),
    "offsets that overlap": lambda header, body: lying(data_offsets=header[SECOND]["data_offsets"])(header, body),
    "offsets that end before they begin": lying(data_offsets=[16, 0]),
    "a shape without end": lying(shape=[2**40, 2**40]),
    "a negative shape": lying(shape=[-4]),
    "an unknown type": lying(dtype="Q99"),
    "JSON that nests": lambda _, body: safetensors_of(b'{"a":' * 100_000, body),
    "a header beyond the file": lambda header, body: safetensors_of(header, body, length=10**7),
    "a header beyond any file": lambda header, body: safetensors_of(header, body, length=2**63),
    "numbers that are cut": lambda header, body: safetensors_of(header, body[:100]),
    "numbers that are too many": lambda header, body: safetensors_of(header, body + b"more"),
    "metadata that is no text": telling(5),
    "nothing": lambda *_: b"",
    "zeros": lambda *_: b"\0" * 100,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_safetensors_file_that_lies_is_one_problem(tmp_path, saved, lie):
    (tmp_path / "model.safetensors").write_bytes(lie(*saved))
    assert refused(tmp_path / "model.safetensors").code == "weights"


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_damaged_file_is_one_problem_at_every_door(tmp_path, saved, door):
    (tmp_path / "model.safetensors").write_bytes(LIES["numbers that are cut"](*saved))
    assert refused(tmp_path / "model.safetensors", door).code == "weights"


SPECS = {
    "brackets": "[" * 200_000,
    "too large": "encoder: timm/test_resnet\ndecoder: {FCNDecoder: {channels: 60000}}\nhead: RegressionHead",
}


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_a_spec_in_a_file_is_read_as_any_other(tmp_path, saved, text):
    file = tmp_path / "model.safetensors"
    file.write_bytes(telling(text)(*saved))
    problem = refused(file, DOORS["load"])
    assert (problem.code, problem.place.file) == ("limit", f"{file}: spec")


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
    "call": lambda canary: pickle.dumps(Calling(os.mkdir, canary), 2),
    "code": lambda canary: pickle.dumps(Calling(exec, f"import os; os.mkdir({canary!r})"), 4),
    "state": lambda canary: pickle.dumps(Remembering(canary), 2),
    "new": lambda canary: pickle.dumps(making(canary), 2),
    "entries": lambda canary: pickle.dumps(Filling(canary=canary), 2),
    "nested": lambda canary: pickle.dumps({"a": [(Calling(os.mkdir, canary),)]}, 4),
    "as-a-key": lambda canary: pickle.dumps({Calling(os.mkdir, canary): 1}, 4),
    "old-style": lambda canary: f"(S'{canary}'\nios\nmkdir\n.".encode(),
    "object": lambda canary: f"(cos\nmkdir\nS'{canary}'\no.".encode(),
    "extension": lambda canary: b"\x80\x02\x82\x01" + pickle.dumps((canary,), 2)[2:-1] + b"R.",
}
"""Pickles that leave a file behind when Python reads them, each in another way."""


@pytest.fixture
def canary(tmp_path):
    """A file that is not there; and number 1 stands for a function, on which some program agreed."""
    copyreg.add_extension("posix", "mkdir", 1)
    yield tmp_path / "canary"
    copyreg.remove_extension("posix", "mkdir", 1)


def write_archive(file, pickled):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(16))


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Read the tensors of an archive whose pickle is given."""
    file = tmp_path_factory.mktemp("pickled") / "model.pt"

    def read(pickled):
        write_archive(file, pickled)
        return read_tensor_file(file)

    return read


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
def test_python_itself_would_run_it(written, canary):
    with suppress(Exception):
        pickle.loads(written(str(canary)))
    assert canary.exists()


@pytest.mark.parametrize("written", HOSTILE.values(), ids=HOSTILE)
def test_nothing_is_run_or_looked_up(written, canary, read, monkeypatch):
    pickled = written(str(canary))
    with pytest.raises(UnreadableError):
        read(pickled)
    looked_up = []
    with monkeypatch.context() as patched, suppress(UnreadableError):
        patched.setattr(builtins, "__import__", lambda name, *_, **__: looked_up.append(name))
        read(pickled)
    assert looked_up == []
    assert not canary.exists()


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "bare"])
def test_nothing_is_run_at_any_door(tmp_path, canary, zipped, door):
    pickled = pickle.dumps({"state_dict": {"a": Calling(os.mkdir, str(canary))}}, 2)
    (write_archive if zipped else Path.write_bytes)(tmp_path / "model.pth", pickled)
    assert refused(tmp_path / "model.pth", door).code == "weights"
    assert not canary.exists()


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
    """Whatever is in it: no other exception."""
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


def test_names_with_halves_of_letters_are_printable(read):
    with pytest.raises(UnreadableError) as caught:
        read(pickle.dumps({"a\udc80": [], "b": 1}, 4)[:-1] + b"X\x01\x00\x00\x00c" + TENSOR + b"s.")
    assert str(caught.value) == "holds tensors by name beside 2 other values (a\\udc80, b)"


def test_too_little_memory_is_no_damage(read, monkeypatch):
    def create(*_):
        raise MemoryError

    monkeypatch.setattr("composer.tensors.files._create_object", create)
    with pytest.raises(MemoryError):
        read(WHOLE)


DAMAGED = "is damaged, or was not written by torch.save"
NO_TENSORS = "holds no tensors by name"
LONG = "has a pickle of more than 1,000,000 steps"
NOT_VALID = "is damaged (a is not a valid tensor)"
DEEP = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(60))
"""A tuple of twice a tuple of twice a tuple: small in memory, and whoever hashes or prints it never ends."""
LONG_NAME = b"X" + (2**22).to_bytes(4, "little") + b"a" * 2**22
ONE_HASH = b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(50_000))
REBUILD = b"\x80\x02" + DEEP + b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(("
OVER = b"X\7\0\0\0storagectorch\nFloatStorage\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
MANY_ARGUMENTS = (
    b"\x80\x02}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\nq\0(("
    + OVER
    + b"X\1\0\0\x000X\3\0\0\0cpuK\x08tQK\0K\1\x85K\1\x85\x89"
    + b"N" * 300_000
    + b"tq\1Rs"
    + b"h\0h\1R0" * 50_000
    + b"."
)
ENDLESS = {
    "nothing": (b"", DAMAGED),
    "no end": (WHOLE[:-1], DAMAGED),
    "a key": (b"\x80\x02" + DEEP + b"}h\x3cNs.", NO_TENSORS),
    "keys of an object": (b"\x80\x02" + DEEP + b"ca\nb\n)R(h\x3cNu.", NO_TENSORS),
    "pairs of a dict": (b"\x80\x02" + DEEP + b"ccollections\nOrderedDict\n](h\x3cN\x86e\x85R.", NO_TENSORS),
    "instruction DICT": (b"\x80\x02" + DEEP + b"(h\x3cNd.", DAMAGED),
    "a name": (b"\x80\x04" + DEEP + b"\x8c\x01ah\x3c\x93.", DAMAGED),
    "a function": (b"\x80\x02}X\1\0\0\0a" + DEEP + b"h\x3ch\x3cRs.", NO_TENSORS),
    "a set": (b"\x80\x04" + DEEP + b"\x8f(h\x3c\x90.", NO_TENSORS),
    "a frozen set": (b"\x80\x04" + DEEP + b"(h\x3c\x91.", NO_TENSORS),
    "an identifier": (b"\x80\x02" + DEEP + b"h\x3cQ.", NO_TENSORS),
    "arguments of every call": (MANY_ARGUMENTS, NOT_VALID),
    "key of a storage": (REBUILD + OVER + b"h\x3cX\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.", NOT_VALID),
    "kind of a storage": (
        REBUILD + b"X\7\0\0\0storageh\x3cX\1\0\0\x000X\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.",
        "has a of a kind that is not read ('unknown')",
    ),
    "size": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpuK\2tQK\0h\x3c(K\1t\x89}tRs.",
        "is damaged (a reaches beyond its numbers)",
    ),
    "views of 4 TB": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpuK\2tQK\0J\0\0\0\x40J\0\x10\0\0\x86K\0K\0\x86\x89}tRs.",
        "has a, a view that repeats its numbers beyond the size of the file",
    ),
    "a parameter": (b"\x80\x02" + DEEP + b"}X\1\0\0\0a" + PARAMETER + b"h\x3cRs.", NOT_VALID),
    "parameters within parameters": (
        b"\x80\2}X\1\0\0\0a" + PARAMETER * 5000 + b")R" + b"\x85R" * 4999 + b"s.",
        NOT_VALID,
    ),
    "3 GB of bytes": (b"\x80\x05\x96" + (3 * 2**30).to_bytes(8, "little") + b".", DAMAGED),
    "a frame of 3 GB": (b"\x80\x05\x95" + (3 * 2**30).to_bytes(8, "little") + b"N.", NO_TENSORS),
    "memory at 2^31": (b"\x80\x02K\x01r\xff\xff\xff\x7f.", NO_TENSORS),
    "a function with keywords": (b"\x80\x04cos\nsystem\n)}\x92.", NO_TENSORS),
    "state of a function": (b"\x80\x02cos\nsystem\n}b.", NO_TENSORS),
    "state of a tensor": (b"\x80\x02" + TENSOR + b"}X\x04\x00\x00\x00dataNsb.", NO_TENSORS),
    "entries of a tensor": (b"\x80\x02" + TENSOR + b"K\x00K\x01s.", NO_TENSORS),
    "a tensor as a function": (b"\x80\x02" + TENSOR + TENSOR + b"\x85R.", NO_TENSORS),
    "numbers of one hash": (b"\x80\x02}(" + ONE_HASH + b"u.", NO_TENSORS),
    "a long name, often": (
        b"\x80\x04" + LONG_NAME + b"\x94\x8c\x01a\x94" + b"h\x00h\x01\x930h\x01h\x00\x930" * 50_000 + b"N.",
        NO_TENSORS,
    ),
    "a long key, often": (b"\x80\x04}(" + LONG_NAME + b"\x94N" + b"h\x00N" * 100_000 + b"u.", NO_TENSORS),
    "one dict under many names": (
        b"\x80\x02}q\0("
        + b"".join(b"X\3\0\0\0%03dN" % k for k in range(1000))
        + b"u}("
        + b"".join(b"X\5\0\0\0%05dh\0" % k for k in range(99_999))
        + b"u.",
        "holds more than 750,000 values by name",
    ),
    "marks": (b"\x80\x02" + b"(" * 2**20 + b".", LONG),
    "depth": (b"\x80\x02)" + b"\x85" * 50_000 + b".", NO_TENSORS),
    "many bytes": (b"\x80\x02" + b"N0" * 2**25 + b"N.", "has a pickle of more than 67,108,864 bytes"),
}


@pytest.mark.parametrize(("written", "said"), ENDLESS.values(), ids=ENDLESS)
def test_a_hostile_pickle_ends_with_one_error(written, said, read):
    with limit_seconds(20), pytest.raises(UnreadableError) as caught:
        read(written)
    assert str(caught.value) == said


def rezipped(change, compression=zipfile.ZIP_STORED):
    """The records of an archive, changed and written again."""

    def spoil(file):
        with zipfile.ZipFile(file) as archive:
            records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        change(records)
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in records.items():
                archive.writestr(f"a/{name}", content)

    return spoil


def headless(file):
    """The record of the numbers has no head of its own."""
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        content[archive.getinfo("model/data/0").header_offset] ^= 0xFF
    file.write_bytes(content)


def far_away(file):
    """The list says that the numbers stand at the end of the file, where a head is but nothing behind it."""
    content = bytearray(file.read_bytes())
    start = content.rindex(b"PK\1\2", 0, content.index(b"/data/0", content.index(b"PK\1\2")))
    with zipfile.ZipFile(file) as archive:
        content[start + 42 : start + 46] = archive.infolist()[-1].header_offset.to_bytes(4, "little")
    file.write_bytes(content)


def far_too_many_records(file):
    """A list of 100,000 records, of which zipfile would make objects before anybody could count."""
    content = file.read_bytes()
    start = content.index(b"PK\1\2")
    record = content[start : content.index(b"PK\1\2", start + 4)]
    count = 2**22 // len(record) + 1
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, count * len(record), start, 0)
    file.write_bytes(content[:start] + record * count + end)


def folder(file):
    file.unlink()
    file.mkdir()


def save_as(content, **options):
    return lambda file: torch.save(content, file, **options)


def save_over(*arguments):
    """Save what claims to be a tensor over a storage."""
    return save_as({"a": Calling(torch._utils._rebuild_tensor_v2, *arguments, False, {})})


ONE = torch.ones(2)
STORAGE = torch.ones(4)._typed_storage()
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NEITHER = "\n  fix: give a file of safetensors, or one that torch.save wrote"
AGAIN = "\n  fix: save or copy it again"
NOT_OF_TORCH = f"{DAMAGED}.{AGAIN}"
NO_NUMBERS = f"is damaged (the numbers of a cannot be read).{AGAIN}"
NO_STATE = f"{NO_TENSORS}.\n  fix: save the state dict: torch.save(model.state_dict(), file)"
SPOILED = {
    "nothing": (Path.unlink, "is not a file.\n  fix: check the path"),
    "folder": (folder, "is a folder.\n  fix: check the path"),
    "empty": (lambda file: file.write_bytes(b""), "is not a safetensors file ("),
    "text": (lambda file: file.write_text("state_dict"), f"is a text.{NEITHER}"),
    "pointer": (
        lambda file: file.write_text(POINTER),
        "is a pointer of git-lfs, and not the file itself.\n  fix: fetch the file: git lfs pull",
    ),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-100]), NOT_OF_TORCH),
    "headless": (headless, NO_NUMBERS),
    "far away": (far_away, NO_NUMBERS),
    "another zip": (rezipped(lambda records: records.pop("data.pkl")), NOT_OF_TORCH),
    "no pickle": (rezipped(lambda records: records.update({"data.pkl": b"\x80"})), NOT_OF_TORCH),
    "list": (save_as([ONE]), NO_STATE),
    "empty state": (save_as({"epoch": 1, "state_dict": {}}), NO_STATE),
    "beyond": (save_over(STORAGE, 0, (100,), (1,)), f"is damaged (a reaches beyond its numbers).{AGAIN}"),
    "negative": (save_over(STORAGE, 0, (-2,), (1,)), "is damaged (a reaches beyond its numbers)."),
    "far steps": (save_over(STORAGE, 0, (2, 2), (2**63, 1)), "is damaged (a reaches beyond its numbers)."),
    "no memory": (save_over(None, 0, (2,), (1,)), f"{NOT_VALID}."),
    "compressed": (
        rezipped(lambda records: records.update({"data.pkl": bytes(2**24)}), zipfile.ZIP_DEFLATED),
        "has compressed records; torch.save does not compress.",
    ),
    "records": (far_too_many_records, "has a list of records of more than 4,194,304 bytes."),
    "another order": (
        rezipped(lambda records: records.update(byteorder=b"big")),
        "has another byte order than this machine.",
    ),
    "conjugate": (
        save_as({"a": torch.ones(2, dtype=torch.complex64).conj()}),
        "has a, whose numbers are conjugate or negated.",
    ),
    "expanded": (
        save_as({"a": torch.ones(1).expand(10_000)}),
        "has a, a view that repeats its numbers beyond the size of the file.",
    ),
    "program": (lambda file: torch.jit.save(torch.jit.script(nn.ReLU()), file), "is a program that torch.jit wrote."),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(("spoil", "said"), SPOILED.values(), ids=SPOILED)
def test_a_file_that_cannot_be_read_is_one_problem(tmp_path, spoil, said):
    file = tmp_path / "model.pth"
    torch.save({"a": ONE}, file)
    spoil(file)
    assert str(refused(file)).startswith(f"{file}: error[weights] {said}")


def test_a_file_that_may_not_be_read_is_one_problem(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    torch.save({"a": ONE}, tmp_path / "model.pth")
    monkeypatch.setattr(Path, "open", refuse)
    assert str(refused(tmp_path / "model.pth")).endswith(
        "error[weights] cannot be read (Permission denied).\n  fix: check the file and its permissions"
    )


BESIDE = {
    "module": nn.CrossEntropyLoss,
    "values": lambda: {"path": Path("x"), "set": {1, 2}, (1, 2): len, Filling: [Filling()]},
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(7), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "float8": lambda: torch.ones(5).to(torch.float8_e5m2),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("other", BESIDE.values(), ids=BESIDE)
def test_a_file_is_read_past_what_else_it_holds(tmp_path, other):
    content = {"before": other(), "state_dict": {f"{n}": torch.full((3,), n) for n in range(5)}, "behind": other()}
    torch.save(content, tmp_path / "model.pth")
    found = read_tensor_file(tmp_path / "model.pth")
    assert {name: x.tolist() for name, x in found.items()} == {f"{n}": [n] * 3 for n in range(5)}


def test_tensors_of_rare_kinds_are_read(tmp_path):
    content = {
        "float8": torch.arange(1, 9).to(torch.float8_e4m3fn)[2:4],
        "unsigned": torch.arange(3).to(torch.uint16),
        "buffer": nn.Buffer(torch.arange(3.0)),
        "attribute": nn.Parameter(torch.arange(5.0)),
        "empty": torch.empty(0, 3),
    }
    content["attribute"].origin = "here"
    torch.save(content, tmp_path / "model.pth")
    found = read_tensor_file(tmp_path / "model.pth")
    assert {name: x.dtype for name, x in found.items()} == {name: x.dtype for name, x in content.items()}
    assert {name: x.tolist() for name, x in found.items()} == {name: x.tolist() for name, x in content.items()}


def test_a_file_of_torch_before_1_6_can_be_converted(tmp_path):
    """By what the error says."""
    file, state = tmp_path / "model.pth", state_of(composer.build(GRAPH, seed=4))
    torch.save(state, file, _use_new_zipfile_serialization=False)
    assert str(refused(file)).endswith(
        "is a pickle outside a zip archive, as torch wrote before 1.6.\n"
        "  fix: convert it: torch.save(torch.load(file, weights_only=True), file)"
    )
    torch.save(torch.load(file, weights_only=True), file)
    model = composer.build(GRAPH, seed=8)
    composer.load_weights(model, file)
    assert unlike(state_of(model), state) == []


WRITERS = {"torch": torch.save, "safetensors": save_file}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_parameter_points_into_the_file(tmp_path, write):
    file = tmp_path / "model.pth"
    model, state = composer.build(GRAPH, seed=8), state_of(composer.build(GRAPH, seed=4))
    write(state, file)
    composer.load_weights(model, file)
    file.write_bytes(bytes(file.stat().st_size))
    assert unlike(state_of(model), state) == []


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_model_of_other_shapes_reads_no_numbers(tmp_path, monkeypatch, write):
    file = tmp_path / "model.safetensors"
    write(composer.build(composer.chain(Timm("test_resnet", out_indices=[1]), EmbeddingHead())).state_dict(), file)
    model = composer.build(GRAPH)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda *_: pytest.fail("they were read"))
    with pytest.raises(SpecError, match=r"lacks 8 tensors of the model: 6 of decoder \("):
        composer.load_weights(model, file)


def test_one_memory_may_not_be_many_tensors(tmp_path):
    """Who copies each of them, as libraries do, would need so much memory."""
    file, whole = tmp_path / "model.pth", torch.ones(10_000)
    torch.save({f"{number}": whole for number in range(6)}, file)
    problem = refused(file, DOORS["pretrained"])
    assert problem.got == "ValueError: model.pth has tensors that come to more than 4 times its own size"
    assert problem.fix == "give the path of a weights file that fits this network"


def test_views_are_given_in_memory_of_their_own(tmp_path):
    whole = torch.arange(1000.0)
    torch.save({"whole": whole, "part": whole[2:4]}, tmp_path / "model.pth")
    part = read_tensor_file(tmp_path / "model.pth")["part"]
    assert (part.tolist(), part.untyped_storage().nbytes()) == ([2, 3], 8)


def test_a_header_of_any_size_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as made:
        made.write(struct.pack("<Q", 2**24 + 1))
        made.truncate(2**26)
    assert refused(file).message == "has a header of more than 16,777,216 bytes."


def test_numbers_of_a_kind_that_is_not_read_are_named(tmp_path):
    header = {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
    (tmp_path / "model.safetensors").write_bytes(safetensors_of(header, bytes(4)))
    problem = refused(tmp_path / "model.safetensors")
    assert problem.message == "has a of a kind that is not read ('float8_e8m0fnu')."
    assert problem.fix == "convert it to floating-point numbers, and save it again"


def test_a_list_of_shards_that_names_itself_is_refused(tmp_path):
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"a": file.name}}))
    assert refused(file).message == f"names {file.name}, which is a text."


NAMES = {"too long": ("a" * 5000, "cannot be read (File name too long)."), "zero": ("a\0b", "is not a file.")}


@pytest.mark.parametrize(("name", "said"), NAMES.values(), ids=NAMES)
def test_a_name_that_no_file_has_is_one_problem(name, said):
    assert refused(name).message == said


def test_numbers_that_are_none_are_weights_like_others(tmp_path):
    """A training that diverged is saved and looked at like any other."""
    model = composer.build(GRAPH)
    model.get_parameter(FIRST).data.fill_(float("nan"))
    composer.save(model, tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").get_parameter(FIRST).isnan().all()
