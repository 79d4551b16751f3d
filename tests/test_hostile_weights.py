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
import torch

import composer
import composer.terratorch
from composer import EmbeddingHead, FCNDecoder, SegmentationHead, SpecError, Timm
from composer.adapters.archives import check_archive

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
    "restore": composer.restore,
    "load": lambda _, file: composer.load(file),
    "terratorch": composer.terratorch.load,
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
TORCH_DOORS = {name: door for name, door in DOORS.items() if name in ("terratorch", "pretrained")}


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


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_bomb_is_not_unpacked(tmp_path, archive, door, monkeypatch):
    file = tmp_path / "model.pth"
    with_pickle(archive, file, b"\0" * 2**24, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("it was unpacked"))
    assert file.stat().st_size < 2**18
    assert refused(door, file).code == "weights"


def test_what_is_said_of_a_bomb(tmp_path, archive):
    file = tmp_path / "model.pth"
    with_pickle(archive, file, b"\0" * 2**24, zipfile.ZIP_DEFLATED)
    problem = refused(DOORS["pretrained"], file)
    assert problem.got == "ValueError: its records are compressed, or overlap; torch.save writes none that do"
    assert problem.repair == "give the path of a weights file that fits this network"


def test_records_that_overlap_are_a_bomb_too(tmp_path):
    """Many names for the same bytes: each is stored, and all together are more than the file."""
    file = tmp_path / "model.pth"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("a", b"\0" * 10_000)
        first = made.infolist()[0]
        made.filelist += [copy.copy(first) for _ in range(50)]
    with pytest.raises(ValueError, match=r"^its records are compressed, or overlap; torch\.save writes none that do$"):
        check_archive(file)


def test_what_torch_writes_is_no_bomb(archive):
    assert check_archive(archive) is None


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK\x03\x04" + b"x" * 500, b"\x80\x02."], ids=repr)
def test_what_is_no_archive_is_left_to_torch(tmp_path, data):
    file = tmp_path / "model.pth"
    file.write_bytes(data)
    assert check_archive(file) is None


@pytest.mark.parametrize("door", [composer.restore, composer.terratorch.load], ids=["restore", "terratorch"])
def test_a_model_without_memory_keeps_nothing_and_says_so(tmp_path, saved, door):
    file = tmp_path / "model.safetensors"
    file.write_bytes(safetensors(*saved))
    with pytest.raises(SpecError) as caught:
        door(composer.build(GRAPH, device="meta"), file)
    assert str(caught.value) == (
        f"{file}: error[weights] cannot be put into a model on the meta device.\n  repair: build the model on the CPU"
    )


def test_numbers_that_are_none_are_weights_like_others(tmp_path):
    """A training that diverged is saved and looked at like any other."""
    model = composer.build(GRAPH)
    model.get_parameter("decoder.convs.0.0.bias").data.fill_(float("nan"))
    composer.save(model, tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").get_parameter(FIRST).isnan().all()


@pytest.mark.parametrize("door", [composer.restore, composer.terratorch.load], ids=["restore", "terratorch"])
def test_an_interrupted_model_has_all_the_weights(tmp_path, door, monkeypatch):
    """Ctrl-C between two of the tensors: the rest is set too, and then it is raised."""
    trained, model = composer.build(GRAPH, seed=1), composer.build(GRAPH, seed=2)
    composer.save(trained, tmp_path / "model.safetensors")
    copied, copy_ = [], torch.Tensor.copy_

    def interrupted_once(tensor, numbers):
        copied.append(tensor)
        if len(copied) == 3:
            raise KeyboardInterrupt
        return copy_(tensor, numbers)

    monkeypatch.setattr(torch.Tensor, "copy_", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        door(model, tmp_path / "model.safetensors")
    expected = trained.state_dict()
    assert [name for name, tensor in model.state_dict().items() if not tensor.equal(expected[name])] == []
