"""Files of weights that lie, damaged or hostile: one problem each, at every door, and the model stays as it was."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import signal
import struct
import zipfile
from collections import OrderedDict

import pytest
import timm
import torch

import composer
from composer.adapters.weights import read_file_weights
from composer.errors import SpecError
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from composer.tensors.archives import Archive
from tests.bounded import bounded

GRAPH = composer.chain(
    Timm("test_resnet", out_indices=[1]), FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2)
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What `save` writes: the parts of a file of safetensors."""
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    composer.save(composer.build(GRAPH), file)
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What torch.save writes of the same model's encoder."""
    file = tmp_path_factory.mktemp("weights") / "encoder.pth"
    torch.save(composer.build(GRAPH).get_submodule("encoder").state_dict(), file)
    return file


def safetensors(header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


FIRST, SECOND = "decoder.convs.0.0.bias", "decoder.convs.0.0.weight"


def lying(**changes):
    def made(header, body):
        header = copy.deepcopy(header)
        header[FIRST].update(changes)
        return safetensors(header, body)

    return made


def telling(text):
    def made(header, body):
        return safetensors({**header, "__metadata__": {"composer.spec": text}}, body)

    return made


def overlapping(header, body):
    return lying(data_offsets=header[SECOND]["data_offsets"])(header, body)


LIES = {
    "an offset outside": lying(data_offsets=[0, 2**60]),
    "offsets that overlap": overlapping,
    "offsets that end before they begin": lying(data_offsets=[16, 0]),
    "a shape without end": lying(shape=[2**40, 2**40]),
    "another shape": lying(shape=[5]),
    "a negative shape": lying(shape=[-4]),
    "an unknown type": lying(dtype="Q99"),
    "no JSON": lambda _, body: safetensors(b"{" * 1000, body),
    "JSON that nests": lambda _, body: safetensors(b'{"a":' * 100_000, body),
    "a header beyond the file": lambda header, body: safetensors(header, body, length=10**7),
    "a header beyond any file": lambda header, body: safetensors(header, body, length=2**63),
    "numbers that are cut": lambda header, body: safetensors(header, body[:100]),
    "numbers that are too many": lambda header, body: safetensors(header, body + b"more"),
    "a header that is cut": lambda header, body: safetensors(header, body)[:50],
    "metadata that is no text": telling(5),
    "nothing": lambda *_: b"",
    "zeros": lambda *_: b"\0" * 100,
}
DOORS = {
    "load_weights": composer.load_weights,
    "load": lambda _, file: composer.load(file),
    "pretrained": lambda _, file: pretrained(file),
}


def pretrained(file):
    part = Timm("test_resnet", out_indices=[1], pretrained=str(file))
    return composer.build(composer.chain(part, EmbeddingHead()))


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_file_that_lies_is_one_problem(tmp_path, saved, lie, door):
    file = tmp_path / "model.safetensors"
    file.write_bytes(lie(*saved))
    assert refused(door, file).code == "weights"


def refused(door, file):
    """The one problem of a file, and no tensor of the model has changed."""
    model = composer.build(GRAPH, seed=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpecError) as caught:
        door(model, file)
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])] == []
    (problem,) = caught.value.problems
    return problem


SPECS = {
    "brackets": ("[" * 200_000, "limit"),
    "nothing": ("", "missing"),
    "more than there is memory for": (
        "encoder: timm/test_resnet\ndecoder: {FCNDecoder: {channels: 60000}}\nhead: RegressionHead",
        "memory",
    ),
    "a number too large": ("input: {channels: 1000000}\nencoder: timm/test_resnet\nhead: EmbeddingHead", "value"),
}


@pytest.mark.parametrize(("text", "code"), SPECS.values(), ids=SPECS)
def test_a_spec_in_a_file_is_read_as_any_other(tmp_path, saved, text, code):
    file = tmp_path / "model.safetensors"
    file.write_bytes(telling(text)(*saved))
    problem = refused(lambda _, path: composer.load(path), file)
    assert problem.code == code
    assert problem.place.file == f"{file}: spec"


class Calling:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


class Claimed:
    """Pickled, it is a tensor that claims to be of any size over the numbers of the first of the file."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


class Storage:
    def __init__(self, count):
        self.identifier = ("storage", torch.FloatStorage, "0", "cpu", count)


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return thing.identifier if isinstance(thing, Storage) else None


def claimed(count, offset, size, stride):
    written = io.BytesIO()
    tensor = Claimed(Storage(count), offset, size, stride, False, OrderedDict())
    Pickler(written, 2).dump({"conv1.0.weight": tensor})
    return written.getvalue()


def with_pickle(archive, file, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))


CLAIMS = {
    "numbers that are not there": (2**50, 0, (2**50,), (1,)),
    "an offset below": (216, -5, (3,), (1,)),
    "an end beyond": (216, 0, (1000,), (1,)),
    "strides below": (216, 10, (3,), (-1,)),
}
TORCH_DOORS = {name: door for name, door in DOORS.items() if name in ("load_weights", "pretrained")}


@pytest.mark.parametrize("door", TORCH_DOORS.values(), ids=TORCH_DOORS)
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_tensor_that_claims_what_is_not_there(tmp_path, archive, claim, door):
    file = tmp_path / "model.pth"
    with_pickle(archive, file, claimed(*claim))
    assert refused(door, file).code == "weights"


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "bare"])
def test_a_pickle_that_calls_something_calls_nothing(tmp_path, archive, zipped, door):
    file, canary = tmp_path / "model.pth", tmp_path / "canary"
    pickled = pickle.dumps({"state_dict": {"a": Calling(canary)}}, 2)
    if zipped:
        with_pickle(archive, file, pickled)
    else:
        file.write_bytes(pickled)
    assert refused(door, file).code == "weights"
    assert not canary.exists()


def compressed(archive, file):
    with_pickle(archive, file, b"\0" * 2**24, zipfile.ZIP_DEFLATED)


def overlapped(archive, file):
    """Many names for the same bytes: each is stored, and all together are more than the file."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(file, "w") as made:
        for name in old.namelist():
            made.writestr(name, old.read(name))
        largest = max(made.filelist, key=lambda record: record.file_size)
        made.filelist += [copy.copy(largest) for _ in range(50)]


def far_too_many(archive, file):
    """The list of records says that it is long. zipfile would read it before anybody could count."""
    content = bytearray(archive.read_bytes())
    content[-10:-6] = (2**23 + 1).to_bytes(4, "little")
    file.write_bytes(content)


def far_too_many_by_64_bits(archive, file):
    content = archive.read_bytes()
    true = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**23 + 1, 0)
    file.write_bytes(content[:-22] + true + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1) + content[-22:])


def somewhere_else(archive, file):
    """Where its true length stands is not where it should."""
    content = archive.read_bytes()
    file.write_bytes(content[:-22] + struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1) + content[-22:])


OVERLAP = "has records that are compressed, or overlap; torch.save writes none that do"
BOMBS = {
    "compressed": (compressed, OVERLAP),
    "overlapping": (overlapped, OVERLAP),
    "records": (far_too_many, "has a list of records of more than 8,388,608 bytes"),
    "records-64": (far_too_many_by_64_bits, "has a list of records of more than 8,388,608 bytes"),
    "records-elsewhere": (somewhere_else, "has a list of records of more than 8,388,608 bytes"),
}


@pytest.mark.parametrize("door", TORCH_DOORS)
@pytest.mark.parametrize(("bomb", "said"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_not_unpacked(tmp_path, archive, bomb, said, door, monkeypatch):
    file = tmp_path / "model.pth"
    bomb(archive, file)
    monkeypatch.setattr(Archive, "read", lambda *_: pytest.fail("it was unpacked"))
    assert told(door, file) == said


def told(door, file):
    """What is wrong with a file, at the door where it is a file of the model's, or where a spec names it."""
    problem = refused(DOORS[door], file)
    if door == "pretrained":
        assert problem.repair == "give the path of a weights file that fits this network"
        return problem.got.removeprefix("ValueError: the file ")
    return problem.message.removesuffix(".")


DEEP = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(60))
"""A tuple of twice a tuple of twice a tuple: small in memory, and whoever hashes or prints it never ends."""
REBUILD = b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(("
OVER = b"X\7\0\0\0storagectorch\nFloatStorage\n"
NO_MEMORY = "is damaged (it mentions memory that is none)"
ENDLESS = {
    "key of a storage": (REBUILD + OVER + b"h\x3cX\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.", NO_MEMORY),
    "kind of a storage": (
        REBUILD + b"X\7\0\0\0storageh\x3cX\1\0\0\x000X\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.",
        NO_MEMORY,
    ),
    "identifier": (
        b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(h\x3cQK\0(K\x08t(K\1t\x89}tRs.",
        NO_MEMORY,
    ),
    "size": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpuK\2tQK\0h\x3c(K\1t\x89}tRs.",
        "is damaged (a looks at numbers that are not there)",
    ),
    "count": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpu\x8b\0\x10\0\0" + b"\x7f" * 4096 + b"tQK\0(K\2t(K\1t\x89}tRs.",
        NO_MEMORY,
    ),
    "tensor": (
        b"}X\1\0\0\0actorch._utils\n_rebuild_parameter\nh\x3cRs.",
        "is damaged (a is not made as torch makes a tensor)",
    ),
    "maker": (b"}X\1\0\0\0ah\x3ch\x3cRs.", "holds no tensors by name"),
    "key of a dict": (b"}(h\x3cNu.", "holds no tensors by name"),
}
TELL = """
import sys
from pathlib import Path
from composer.adapters.archives import read_file_weights
from composer.tensors.files import open_tensor_file
from composer.tensors.unreadable import UnreadableError
for read in (read_file_weights, lambda path: open_tensor_file(path).__enter__()):
    try:
        read(Path(sys.argv[1]))
    except ValueError as error:
        print(str(error).removeprefix("the file "))
"""
"""What both doors say: that of a spec, and that of a model."""


@pytest.mark.parametrize(("pickled", "said"), ENDLESS.values(), ids=ENDLESS)
def test_what_would_never_end_is_one_error(tmp_path, pickled, said):
    file = tmp_path / "h.pt"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("h/data.pkl", b"\x80\2" + DEEP + pickled)
        made.writestr("h/data/0", bytes(8))
    assert bounded(TELL, str(file)).decode().splitlines() == [said, said]


def test_parameters_within_parameters_are_none(tmp_path):
    """However deep: nobody goes down there."""
    within = b"ctorch._utils\n_rebuild_parameter\n"
    file = tmp_path / "h.pt"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("h/data.pkl", b"\x80\2}X\1\0\0\0a" + within * 5000 + b")R" + b"\x85R" * 4999 + b"s.")
    assert told("load_weights", file) == "is damaged (a is not made as torch makes a tensor)"


@pytest.mark.parametrize("door", TORCH_DOORS)
def test_shapes_are_compared_before_any_numbers_are_read(tmp_path, door, monkeypatch):
    """The tensors of a file that is not the model's may be of any size."""
    file = tmp_path / "model.pth"
    torch.save({"a": torch.ones(10), "b": torch.ones(10)[:1].expand(10**6)}, file)
    read = Archive.read
    monkeypatch.setattr(Archive, "read", lambda self, name: "data/" not in name and read(self, name))
    expected = {
        "load_weights": "has b, which shows few numbers many times over",
        "pretrained": "has b, which shows few numbers many times over",
    }
    assert told(door, file) == expected[door]


def test_a_model_of_other_shapes_reads_no_numbers(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    composer.save(composer.build(composer.chain(Timm("test_resnet", out_indices=[1]), EmbeddingHead())), file)
    monkeypatch.setattr("composer.tensors.files._read_numbers", lambda *_: pytest.fail("they were read"))
    assert refused(composer.load_weights, file).message.startswith("lacks 8 tensors of the model: 6 of decoder (")


def test_one_memory_may_not_be_many_tensors(tmp_path):
    """Who copies each of them, as libraries do, would need so much memory."""
    file, whole = tmp_path / "model.pth", torch.ones(10_000)
    torch.save({f"{number}": whole for number in range(6)}, file)
    problem = refused(DOORS["pretrained"], file)
    assert problem.got == "ValueError: the file has tensors that come to more than 4 times its own size"


def test_views_are_given_in_memory_of_their_own(tmp_path):
    whole = torch.arange(1000.0)
    torch.save({"whole": whole, "part": whole[2:4]}, tmp_path / "model.pth")
    read = read_file_weights(tmp_path / "model.pth")
    assert read["part"].tolist() == [2, 3]
    assert read["part"].untyped_storage().nbytes() == 8


def test_a_header_of_any_size_is_not_read(tmp_path):
    file = tmp_path / "model.safetensors"
    with file.open("wb") as made:
        made.write(struct.pack("<Q", 2**24 + 1))
        made.truncate(2**26)
    problem = refused(composer.load_weights, file)
    assert str(problem) == (
        f"{file}: error[weights] has a header of more than 16,777,216 bytes.\n"
        "  repair: give a file of safetensors, or one that torch.save wrote"
    )


def test_numbers_of_a_kind_that_is_not_read_are_named(tmp_path, saved):
    file = tmp_path / "model.safetensors"
    header = {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
    file.write_bytes(safetensors(header, bytes(4)))
    assert str(refused(composer.load_weights, file)) == (
        f"{file}: error[weights] has a of a kind that is not read (F8_E8M0).\n"
        "  repair: convert it to floating-point numbers, and save it again"
    )


def stream(*changes):
    """What torch 1.5 wrote, with one text in the place of another."""

    def made(file):
        torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=False)
        content = file.read_bytes()
        for old, new in changes:
            assert content.count(old) == 1
            content = content.replace(old, new)
        file.write_bytes(content)

    return made


COUNT = struct.pack("<Q", 3) + struct.pack("<f", 1)
STREAMS = {
    "cut": (stream((COUNT, struct.pack("<Q", 3))), "is damaged (it is cut off)"),
    "without end": (stream((COUNT, struct.pack("<Qf", 2**62, 1))), "is damaged (it is cut off)"),
    "fewer": (stream((COUNT, struct.pack("<Qf", 2, 1))), "is damaged (a is of 3 numbers, which are not 8 bytes)"),
    "a kind": (
        stream((b"FloatStorage", b"QInt8Storage")),
        "has numbers of a kind that is not read (torch.QInt8Storage)",
    ),
    "another order": (
        stream((b"little_endianq\x02\x88", b"little_endianq\x02\x89")),
        "has bytes in the other order than this machine's",
    ),
    "no pickle": (stream((b"\x80\x02M\xe9\x03.", b"\xff")), "is damaged (its pickle makes no sense at byte 16)"),
}


@pytest.mark.parametrize("door", TORCH_DOORS)
@pytest.mark.parametrize(("made", "said"), STREAMS.values(), ids=STREAMS)
def test_a_damaged_file_of_torch_before_1_6_is_one_problem(tmp_path, made, said, door):
    made(tmp_path / "model.pth")
    assert told(door, tmp_path / "model.pth") == said


def test_a_file_of_torch_before_1_6_is_weights_of_an_encoder(tmp_path):
    state = composer.build(GRAPH, seed=4).get_submodule("encoder.network").state_dict()
    own = timm.create_model("test_resnet").state_dict()
    torch.save({name: own[name] + 1 for name in own}, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    built = pretrained(tmp_path / "m.pth").get_submodule("encoder.network").state_dict()
    assert [name for name in built if not torch.equal(built[name], own[name] + 1)] == []
    assert built.keys() <= state.keys()


@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain"])
def test_a_network_keeps_its_weights_once(tmp_path, features_only):
    """timm would keep what it was given beside what it made of it, and pickle it with the network."""
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "m.pth")
    part = Timm("test_resnet", out_indices=[1], pretrained=str(tmp_path / "m.pth"), features_only=features_only)
    model = composer.build(composer.chain(part, EmbeddingHead()))
    kept = [getattr(module, "pretrained_cfg", None) or {} for module in model.modules()]
    assert [told for told in kept if "state_dict" in told] == []


NAMES = {"too long": ("a" * 5000, "cannot be read (File name too long)"), "zero": ("a\0b", "is no file")}


@pytest.mark.parametrize("door", [name for name in DOORS if name != "pretrained"])
@pytest.mark.parametrize(("name", "said"), NAMES.values(), ids=NAMES)
def test_a_name_that_no_file_has_is_one_problem(name, said, door):
    problem = refused(DOORS[door], name)
    assert (problem.code, problem.message) == ("weights", f"{said}.")


def test_a_model_without_memory_keeps_nothing_and_says_so(tmp_path, saved):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(*saved))
    with pytest.raises(SpecError) as caught:
        composer.load_weights(composer.build(GRAPH, device="meta"), file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into a model on the meta device.\n  repair: build the model on the CPU"
    )


def test_numbers_that_are_none_are_weights_like_others(tmp_path):
    """A training that diverged is saved and looked at like any other."""
    model = composer.build(GRAPH)
    model.get_parameter("decoder.convs.0.0.bias").data.fill_(float("nan"))
    composer.save(model, tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").get_parameter(FIRST).isnan().all()


@pytest.mark.parametrize("often", [1, 4], ids=["once", "again and again"])
def test_an_interrupted_model_is_as_it_was(tmp_path, often, monkeypatch):
    """Ctrl-C between two of the tensors, and again while the first are put back."""
    model = failing_at(monkeypatch, tmp_path, [KeyboardInterrupt] * often)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        composer.load_weights(model, tmp_path / "model.safetensors")
    assert unlike(model, before) == []


def test_a_tensor_that_takes_no_numbers_leaves_all_as_they_were(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    model = failing_at(monkeypatch, tmp_path, [RuntimeError("device lost\nat 0x1")])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpecError) as caught:
        composer.load_weights(model, file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into the model, whose decoder.convs.0.2.ln.bias takes no numbers "
        "(device lost at 0x1).\n  repair: build the model anew"
    )
    assert unlike(model, before) == []


def failing_at(monkeypatch, folder, errors):
    """A model, and a file of its weights; from the third tensor on, each of `errors` is raised once."""
    composer.save(composer.build(GRAPH, seed=1), folder / "model.safetensors")
    model = composer.build(GRAPH, seed=2)
    copied, copy_ = [], torch.Tensor.copy_
    errors = iter(errors)

    def failing(tensor, numbers):
        copied.append(tensor)
        if len(copied) >= 3 and (error := next(errors, None)) is not None:
            raise error
        return copy_(tensor, numbers)

    monkeypatch.setattr(torch.Tensor, "copy_", failing)
    return model


def unlike(model, before):
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]


OVERLAPS = {
    "expanded": lambda tensor: tensor[:1].expand(tensor.shape),
    "overlapping": lambda tensor: torch.zeros(9).as_strided(tensor.shape, (1, *([1] * (tensor.dim() - 1)))),
}


@pytest.mark.parametrize("view", OVERLAPS.values(), ids=OVERLAPS)
def test_numbers_in_one_place_are_refused_before_any_is_set(tmp_path, saved, view):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(*saved))
    model = composer.build(GRAPH, seed=8)
    weight = model.get_parameter("head.head.2.weight")
    weight.data = view(weight.data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(SpecError) as caught:
        composer.load_weights(model, file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into a model whose head.head.2.weight has several of its numbers in "
        "one place.\n  repair: give that tensor memory of its own: .clone()"
    )
    assert unlike(model, before) == []


LAYOUTS = {
    "channels last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_tensors_of_any_other_layout_are_set(tmp_path, saved, layout):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(*saved))
    model = composer.build(GRAPH, seed=8)
    weight = model.get_parameter("head.head.2.weight")
    weight.data = layout(weight.data)
    composer.load_weights(model, file)
    assert unlike(model, composer.load(file).state_dict()) == []


@pytest.fixture
def attended():
    """Ctrl-C interrupts, also where the tests run in the background, of which a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("attended")
def test_ctrl_c_while_numbers_are_read_is_ctrl_c(tmp_path, saved, monkeypatch):
    """safetensors' own reader makes another error of it."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(*saved))
    read, make = [], torch.frombuffer

    def pressed(*arguments, **named):
        read.append(arguments)
        if len(read) == 3:
            signal.raise_signal(signal.SIGINT)
        return make(*arguments, **named)

    monkeypatch.setattr(torch, "frombuffer", pressed)
    model = composer.build(GRAPH, seed=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        composer.load_weights(model, file)
    assert len(read) == 3
    assert unlike(model, before) == []
