"""Files of weights that lie, damaged or hostile: one problem each, at every door, and the model stays as it was."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file

import composer
from composer.adapters.weights import read_file_weights
from composer.errors import SpecError
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
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


def safetensors_file(state, file):
    save_file(state, file)


def safetensors_of(header, body, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


FIRST, SECOND = "decoder.convs.0.0.bias", "decoder.convs.0.0.weight"


def lying(**changes):
    def made(header, body):
        header = copy.deepcopy(header)
        header[FIRST].update(changes)
        return safetensors_of(header, body)

    return made


def telling(text):
    def made(header, body):
        return safetensors_of({**header, "__metadata__": {"composer.spec": text}}, body)

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
    "no JSON": lambda _, body: safetensors_of(b"{" * 1000, body),
    "JSON that nests": lambda _, body: safetensors_of(b'{"a":' * 100_000, body),
    "a header beyond the file": lambda header, body: safetensors_of(header, body, length=10**7),
    "a header beyond any file": lambda header, body: safetensors_of(header, body, length=2**63),
    "numbers that are cut": lambda header, body: safetensors_of(header, body[:100]),
    "numbers that are too many": lambda header, body: safetensors_of(header, body + b"more"),
    "a header that is cut": lambda header, body: safetensors_of(header, body)[:50],
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
    "nothing": ("", "key"),
    "more than there is memory for": (
        "encoder: timm/test_resnet\ndecoder: {FCNDecoder: {channels: 60000}}\nhead: RegressionHead",
        "limit",
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


def far_too_many(archive, file):
    """A list of 100,000 records, of which zipfile would make objects before anybody could count."""
    content = archive.read_bytes()
    start = content.index(b"PK\1\2")
    record = content[start : content.index(b"PK\1\2", start + 4)]
    count = 2**22 // len(record) + 1
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, count * len(record), start, 0)
    file.write_bytes(content[:start] + record * count + end)


BOMBS = {
    "compressed": (compressed, "has compressed records; torch.save does not compress"),
    "records": (far_too_many, "has a list of records of more than 4,194,304 bytes"),
}


@pytest.mark.parametrize("door", TORCH_DOORS)
@pytest.mark.parametrize(("bomb", "said"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_not_unpacked(tmp_path, archive, bomb, said, door, monkeypatch):
    file = tmp_path / "model.pth"
    bomb(archive, file)
    monkeypatch.setattr("composer.tensors.files._Archive.read_record", lambda *_: pytest.fail("it was unpacked"))
    assert told(door, file) == said


def told(door, file):
    """What is wrong with a file, at the door where it is a file of the model's, or where a spec names it."""
    problem = refused(DOORS[door], file)
    if door == "pretrained":
        assert problem.fix == "give the path of a weights file that fits this network"
        return problem.got.removeprefix("ValueError: the file ")
    return problem.message.removesuffix(".")


DEEP = b")q\0" + b"".join(b"h%ch%c\x86q%c" % (level, level, level + 1) for level in range(60))
"""A tuple of twice a tuple of twice a tuple: small in memory, and whoever hashes or prints it never ends."""
REBUILD = b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(("
OVER = b"X\7\0\0\0storagectorch\nFloatStorage\n"
BEYOND = "is damaged (a reaches beyond its numbers)"
NOT_VALID = "is damaged (a is not a valid tensor)"
ENDLESS = {
    "key of a storage": (REBUILD + OVER + b"h\x3cX\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.", NOT_VALID),
    "kind of a storage": (
        REBUILD + b"X\7\0\0\0storageh\x3cX\1\0\0\x000X\3\0\0\0cpuK\x08tQK\0(K\x08t(K\1t\x89}tRs.",
        NOT_VALID,
    ),
    "identifier": (
        b"}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(h\x3cQK\0(K\x08t(K\1t\x89}tRs.",
        NOT_VALID,
    ),
    "size": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpuK\2tQK\0h\x3c(K\1t\x89}tRs.",
        BEYOND,
    ),
    "views of 4 TB": (
        REBUILD + OVER + b"X\1\0\0\x000X\3\0\0\0cpuK\2tQK\0J\0\0\0\x40J\0\x10\0\0\x86K\0K\0\x86\x89}tRs.",
        "has a, a view that repeats its numbers beyond the size of the file",
    ),
    "tensor": (
        b"}X\1\0\0\0actorch._utils\n_rebuild_parameter\nh\x3cRs.",
        NOT_VALID,
    ),
    "maker": (b"}X\1\0\0\0ah\x3ch\x3cRs.", "holds no tensors by name"),
    "key of a dict": (b"}(h\x3cNu.", "holds no tensors by name"),
}
TELL = """
import sys
from pathlib import Path
from composer.adapters.weights import read_file_weights
from composer.tensors.files import open_tensors
for read in (read_file_weights, open_tensors):
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
    assert told("load_weights", file) == NOT_VALID


@pytest.mark.parametrize("door", TORCH_DOORS)
def test_a_view_is_refused_before_any_numbers_are_read(tmp_path, door, monkeypatch):
    """The tensors of a file that is not the model's may be of any size."""
    file = tmp_path / "model.pth"
    torch.save({"a": torch.ones(10), "b": torch.ones(10)[:1].expand(10**6)}, file)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda *_: pytest.fail("they were read"))
    assert told(door, file) == "has b, a view that repeats its numbers beyond the size of the file"


@pytest.mark.parametrize("write", [torch.save, safetensors_file], ids=["torch", "safetensors"])
def test_no_parameter_points_into_the_file(tmp_path, write):
    file = tmp_path / "model.pth"
    model = composer.build(GRAPH, seed=8)
    state = {name: tensor.clone() for name, tensor in composer.build(GRAPH, seed=4).state_dict().items()}
    write(state, file)
    composer.load_weights(model, file)
    file.write_bytes(bytes(file.stat().st_size))
    assert unlike(model, state) == []


@pytest.mark.parametrize("write", [torch.save, safetensors_file], ids=["torch", "safetensors"])
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
        "  fix: give a file of safetensors, or one that torch.save wrote"
    )


def test_numbers_of_a_kind_that_is_not_read_are_named(tmp_path):
    file = tmp_path / "model.safetensors"
    header = {"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}
    file.write_bytes(safetensors_of(header, bytes(4)))
    assert str(refused(composer.load_weights, file)) == (
        f"{file}: error[weights] has a of a kind that is not read ('float8_e8m0fnu').\n"
        "  fix: convert it to floating-point numbers, and save it again"
    )


@pytest.mark.parametrize("door", TORCH_DOORS)
def test_a_file_of_torch_before_1_6_is_refused(tmp_path, door):
    torch.save({"a": torch.ones(3)}, tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    assert told(door, tmp_path / "model.pth") == "is a pickle outside a zip archive, as torch wrote before 1.6"


def test_a_file_of_torch_before_1_6_can_be_converted(tmp_path):
    """By what the error says."""
    file = tmp_path / "model.pth"
    torch.save(composer.build(GRAPH, seed=4).state_dict(), file, _use_new_zipfile_serialization=False)
    torch.save(torch.load(file, weights_only=True), file)
    model = composer.build(GRAPH, seed=8)
    composer.load_weights(model, file)
    assert unlike(model, composer.build(GRAPH, seed=4).state_dict()) == []


@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain"])
def test_a_network_keeps_its_weights_once(tmp_path, features_only):
    """timm would keep what it was given beside what it made of it, and pickle it with the network."""
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "m.pth")
    part = Timm("test_resnet", out_indices=[1], pretrained=str(tmp_path / "m.pth"), features_only=features_only)
    model = composer.build(composer.chain(part, EmbeddingHead()))
    kept = [getattr(module, "pretrained_cfg", None) or {} for module in model.modules()]
    assert [told for told in kept if "state_dict" in told] == []


NAMES = {"too long": ("a" * 5000, "cannot be read (File name too long)"), "zero": ("a\0b", "is not a file")}


@pytest.mark.parametrize("door", [name for name in DOORS if name != "pretrained"])
@pytest.mark.parametrize(("name", "said"), NAMES.values(), ids=NAMES)
def test_a_name_that_no_file_has_is_one_problem(name, said, door):
    problem = refused(DOORS[door], name)
    assert (problem.code, problem.message) == ("weights", f"{said}.")


def test_a_model_without_memory_keeps_nothing_and_says_so(tmp_path, saved):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_of(*saved))
    with pytest.raises(SpecError) as caught:
        composer.load_weights(composer.build(GRAPH, device="meta"), file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into a model on the meta device.\n  fix: build the model on the CPU"
    )


def test_numbers_that_are_none_are_weights_like_others(tmp_path):
    """A training that diverged is saved and looked at like any other."""
    model = composer.build(GRAPH)
    model.get_parameter("decoder.convs.0.0.bias").data.fill_(float("nan"))
    composer.save(model, tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").get_parameter(FIRST).isnan().all()


def test_a_tensor_that_cannot_be_set_is_named(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    composer.save(composer.build(GRAPH, seed=1), file)
    model = composer.build(GRAPH, seed=2)

    def fail(*_):
        raise RuntimeError("device lost\nat 0x1")

    monkeypatch.setattr(torch.Tensor, "copy_", fail)
    with pytest.raises(SpecError) as caught:
        composer.load_weights(model, file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into the model, whose encoder.conv1.0.weight cannot be set (device lost "
        "at 0x1).\n  fix: build the model again"
    )


def unlike(model, before):
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]


LAYOUTS = {
    "channels last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_tensors_of_any_layout_are_set(tmp_path, saved, layout):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors_of(*saved))
    model = composer.build(GRAPH, seed=8)
    weight = model.get_parameter("head.head.2.weight")
    weight.data = layout(weight.data)
    composer.load_weights(model, file)
    assert unlike(model, composer.load(file).state_dict()) == []
