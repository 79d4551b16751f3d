"""Files of every form, and files that are none: tensors are all that is read, and nothing is run."""

import pickle
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from attrs import frozen
from torch import nn

import composer
from composer.errors import SpecError
from composer.tensors.files import MAX_PICKLE_BYTES, UnreadableError, read_tensor_file
from composer.weights import load_weights
from tests.checkpoints import GRAPH, lightning, state_of, trained, unlike


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture
def model():
    return composer.build(GRAPH, seed=8)


def plainly(state, file):
    torch.save(state, file)


def as_safetensors(state, file):
    safetensors.torch.save_file(state, file)


def under(name):
    return lambda state, file: torch.save({"epoch": 1, name: state, "optimizer": [state]}, file)


def of_lightning(state, file):
    torch.save(lightning(state), file)


def of_old(state, file):
    """An older TerraTorch held timm's network in a child of its wrapper."""
    torch.save({re.sub(r"^encoder\.", "encoder._timm_module.", name): x for name, x in state.items()}, file)


def of_data_parallel(state, file):
    torch.save({f"module.{name}": x for name, x in state.items()}, file)


def of_compiled(state, file):
    """torch.compile around a data parallel model, in a task of Lightning's."""
    torch.save({"state_dict": {f"model._orig_mod.module.{name}": x for name, x in state.items()}}, file)


def of_compiled_encoder(state, file):
    torch.save({re.sub(r"^encoder\.", "encoder._orig_mod.", name): x for name, x in state.items()}, file)


def as_parameters(state, file):
    torch.save({name: nn.Parameter(x) if x.is_floating_point() else x for name, x in state.items()}, file)


def of_protocol_4(state, file):
    torch.save(nn.Module.state_dict(composer.build(GRAPH)) | state, file, pickle_protocol=4)


def sharing_memory(state, file):
    """Views of one tensor: other strides, and an offset."""
    views = {}
    for name, x in state.items():
        backwards = tuple(reversed(range(x.dim())))
        memory = torch.zeros(2, *reversed(x.shape), dtype=x.dtype)
        memory[1] = x.permute(backwards)
        views[name] = memory[1].permute(backwards)
    torch.save(views, file)


FORMS = [
    plainly,
    as_safetensors,
    under("state_dict"),
    under("model"),
    under("model_state_dict"),
    of_lightning,
    of_old,
    of_data_parallel,
    of_compiled,
    of_compiled_encoder,
    as_parameters,
    of_protocol_4,
    sharing_memory,
]


@pytest.mark.parametrize(
    "written",
    FORMS,
    ids=[
        "plain",
        "safetensors",
        "state_dict",
        "model",
        "model_state_dict",
        "lightning",
        "old",
        "data-parallel",
        "compiled",
        "compiled-encoder",
        "parameters",
        "protocol-4",
        "views",
    ],
)
def test_a_checkpoint_of_every_form_is_loaded(written, file, model):
    state = state_of(trained())
    written(state, file)

    load_weights(model, str(file))

    assert unlike(state_of(model), state) == []


ONE = torch.ones(2)


def test_a_file_without_checksums_is_read(file):
    """torch writes zeros in their place, and looks at none."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3.0)}, file)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(file) as archive:
        assert {record.CRC for record in archive.infolist()} == {0}
    assert read_tensor_file(file)["a"].tolist() == [0, 1, 2]


def test_a_long_pickle_is_not_read(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", bytes(MAX_PICKLE_BYTES + 1))
    with pytest.raises(UnreadableError, match=r"^has a pickle of more than 67,108,864 bytes$"):
        read_tensor_file(file)


KINDS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_numbers_of_newer_kinds_are_read(file, kind):
    whole = torch.arange(1, 9).to(kind)
    expected = {"a": whole, "b": whole[2:4], "c": ONE}
    torch.save(expected, file)
    read = read_tensor_file(file)
    assert [x.dtype for x in read.values()] == [x.dtype for x in expected.values()]
    assert [x.double().tolist() for x in read.values()] == [x.double().tolist() for x in expected.values()]


def with_attribute(tensor):
    tensor.origin = "here"
    return tensor


def test_tensors_with_attributes_are_tensors(file):
    content = {
        "buffer": nn.Buffer(torch.arange(3.0)),
        "tensor": with_attribute(torch.arange(4.0)[1:]),
        "parameter": with_attribute(nn.Parameter(torch.arange(5.0))),
        "kind": with_attribute(torch.arange(3).to(torch.uint16)),
    }
    torch.save(content, file)
    assert {name: x.tolist() for name, x in read_tensor_file(file).items()} == {
        "buffer": [0, 1, 2],
        "tensor": [1, 2, 3],
        "parameter": [0, 1, 2, 3, 4],
        "kind": [0, 1, 2],
    }


BESIDE = {
    "module": nn.CrossEntropyLoss,
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(7), 0.1, 0, torch.qint8),
    "sparse": lambda: torch.eye(2).to_sparse(),
    "float8": lambda: torch.ones(5).to(torch.float8_e5m2),
}


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("other", BESIDE.values(), ids=BESIDE)
def test_a_file_is_read_past_what_else_it_holds(file, other):
    content = {"before": other(), "state_dict": {f"{n}": torch.full((3,), n) for n in range(5)}, "behind": other()}
    torch.save(content, file)
    assert {name: x.tolist() for name, x in read_tensor_file(file).items()} == {f"{n}": [n] * 3 for n in range(5)}


class Remembered:
    """A class of somebody's own, which a task remembers among its arguments."""

    read = 0

    def __init__(self):
        self.weight = torch.ones(3)

    def __setstate__(self, state):
        Remembered.read += 1


def test_what_else_a_checkpoint_holds_is_left_alone(file, model):
    state = state_of(trained())
    arguments = {"aux_heads": [Remembered()], "path": Path("x"), "module": nn.Linear(2, 2), "set": {1, 2}, (1, 2): len}
    torch.save({**lightning(state), "hyper_parameters": arguments, "callbacks": {Remembered: [Remembered()]}}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)

    load_weights(model, file)

    assert unlike(state_of(model), state) == []
    assert Remembered.read == 0


def rezipped(change, compression=zipfile.ZIP_STORED):
    """The records of a file of torch, changed and written again."""

    def spoil(file):
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        change(records)
        with zipfile.ZipFile(file, "w", compression) as archive:
            for name, content in records.items():
                archive.writestr(name, content)

    return spoil


def headless(file):
    """The record of the first numbers has no head of its own."""
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        at = next(record.header_offset for record in archive.infolist() if record.filename.endswith("data/0"))
    content[at] ^= 0xFF
    file.write_bytes(content)


def far_away(file):
    """The list says that the first numbers stand at the end of the file, where a head is but nothing behind it."""
    content = bytearray(file.read_bytes())
    place = content.rindex(b"/data/0", content.index(b"PK\x01\x02"))
    start = content.rindex(b"PK\x01\x02", 0, place)
    with zipfile.ZipFile(file) as archive:
        at = archive.infolist()[-1].header_offset
    content[start + 42 : start + 46] = at.to_bytes(4, "little")
    file.write_bytes(content)


def program(file):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)


def record(name, content):
    return rezipped(lambda records: records.update({next(iter(records)).split("/")[0] + f"/{name}": content}))


def cut(file):
    file.write_bytes(file.read_bytes()[:-1000])


def folder(file):
    file.unlink()
    file.mkdir()


def saved(content, **options):
    return lambda file: torch.save(content, file, **options)


NO_STATE = "save the state dict: torch.save(model.state_dict(), file)"
DENSE = "save it as a plain tensor: tensor.to_dense(), or tensor.dequantize()"
PICKLE = "is a pickle outside a zip archive, as torch wrote before 1.6."
CONVERT = "convert it: torch.save(torch.load(file, weights_only=True), file)"
NEITHER = "give a file of safetensors, or one that torch.save wrote"
AGAIN = "save or copy it again"
NOT_OF_TORCH = "is damaged, or was not written by torch.save."
OF_THIS = "give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec"
OTHER = (
    "has no tensor of this model: a in the file, and encoder.conv1.0.weight, encoder.conv1.1.weight, "
    "encoder.conv1.1.bias and 35 more in the model."
)
QUANTIZED = (
    b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nQInt8Storage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89}tRs."
)
"""The pickle of a state dict of one tensor, over memory that has numbers of two kinds."""
DAMAGED = {
    "nothing": (lambda file: file.unlink(), "is not a file.", "check the path"),
    "folder": (folder, "is a folder.", "check the path"),
    "empty": (lambda file: file.write_bytes(b""), "is not a safetensors file (", NEITHER),
    "text": (lambda file: file.write_text("state_dict"), "is a text.", NEITHER),
    "short-text": (lambda file: file.write_text("state"), "is not a safetensors file (", NEITHER),
    "pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "is a pointer of git-lfs, and not the file itself.",
        "fetch the file: git lfs pull",
    ),
    "bare-pickle": (lambda file: file.write_bytes(pickle.dumps({"a": 1})), PICKLE, CONVERT),
    "bare-pickle-2": (lambda file: file.write_bytes(pickle.dumps({"a": 1}, 2)), PICKLE, CONVERT),
    "old": (saved({"a": ONE}, _use_new_zipfile_serialization=False), PICKLE, CONVERT),
    "old-protocol-3": (saved({"a": ONE}, pickle_protocol=3, _use_new_zipfile_serialization=False), PICKLE, CONVERT),
    "old-protocol-4": (saved({"a": ONE}, pickle_protocol=4, _use_new_zipfile_serialization=False), PICKLE, CONVERT),
    "cut": (cut, NOT_OF_TORCH, AGAIN),
    "headless": (headless, "is damaged (the numbers of encoder.conv1.0.weight cannot be read).", AGAIN),
    "far-away": (far_away, "is damaged (the numbers of encoder.conv1.0.weight cannot be read).", AGAIN),
    "program": (program, "is a program that torch.jit wrote.", NO_STATE),
    "another-zip": (
        rezipped(lambda records: (records.clear(), records.update({"word/a.xml": b"<a/>"}))),
        NOT_OF_TORCH,
        AGAIN,
    ),
    "compressed": (
        rezipped(lambda records: None, zipfile.ZIP_DEFLATED),
        "has compressed records; torch.save does not compress.",
        AGAIN,
    ),
    "no-pickle": (record("data.pkl", b"\x80"), NOT_OF_TORCH, AGAIN),
    "short-numbers": (
        record("data/0", b"\0" * 8),
        "is damaged (encoder.conv1.0.weight reaches beyond its numbers).",
        AGAIN,
    ),
    "no-numbers": (
        rezipped(lambda records: records.pop(next(iter(records)).split("/")[0] + "/data/5")),
        "is damaged (the numbers of encoder.conv1.1.num_batches_tracked cannot be read).",
        AGAIN,
    ),
    "other-order": (
        record("byteorder", b"big"),
        "has another byte order than this machine.",
        "save it on a machine like this",
    ),
    "number": (saved(3), "holds no tensors by name.", NO_STATE),
    "list": (saved([ONE]), "holds no tensors by name.", NO_STATE),
    "tensor": (saved(ONE), "holds no tensors by name.", NO_STATE),
    "module": (saved(nn.Linear(2, 2)), "holds no tensors by name.", NO_STATE),
    "none-of-them": (saved({"a": 1, "b": [ONE]}), "holds no tensors by name.", NO_STATE),
    "empty-state": (saved({"epoch": 1, "state_dict": {}}), "holds no tensors by name.", NO_STATE),
    "by-number": (saved({1: ONE}), "holds no tensors by name.", NO_STATE),
    "also-others": (
        saved({"a": ONE, "b": 1, "c": "x", "d": None, "e": Path("x")}),
        "holds tensors by name beside 4 other values (b, c, d, …).",
        NO_STATE,
    ),
    "sparse": (
        saved({"a": ONE, "b": torch.eye(2).to_sparse()}),
        "has b of a kind that is not read.",
        DENSE,
    ),
    "sparse-parameter": (
        saved({"a": nn.Parameter(torch.eye(2).to_sparse())}),
        "has a of a kind that is not read.",
        DENSE,
    ),
    "expanded": (
        saved({"a": torch.ones(1).expand(10_000)}),
        "has a, a view that repeats its numbers beyond the size of the file.",
        "save it in memory of its own: tensor.clone()",
    ),
    "complex": (saved({"a": torch.ones(2, dtype=torch.complex64)}), OTHER, OF_THIS),
    "quantized": (
        record("data.pkl", QUANTIZED),
        "has a of a kind that is not read ('QInt8Storage').",
        "convert it to floating-point numbers, and save it again",
    ),
    "conjugate": (
        saved({"a": torch.ones(2, dtype=torch.complex64).conj()}),
        "has a, whose numbers are conjugate or negated.",
        "save its tensors as they are: tensor.resolve_conj().resolve_neg()",
    ),
}
"""What ends with a parenthesis goes on in the words of who refused."""


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(("damage", "said", "fix"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_cannot_be_read_is_one_problem(file, model, damage, said, fix):
    torch.save(state_of(trained()), file)
    damage(file)
    before = state_of(model)

    with pytest.raises(SpecError) as raised:
        load_weights(model, file)

    (problem,) = raised.value.problems
    assert problem.message.startswith(said) if said[-1] == "(" else problem.message == said
    assert (problem.code, problem.place.file, problem.fix) == ("weights", str(file), fix)
    assert unlike(state_of(model), before) == []


def test_a_file_that_may_not_be_read_is_one_problem(file, model, monkeypatch):
    torch.save(state_of(trained()), file)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(SpecError) as raised:
            load_weights(model, file)
    assert str(raised.value) == (
        f"{file}: error[weights] cannot be read (Permission denied).\n  fix: check the file and its permissions"
    )


@pytest.mark.parametrize("length", [0x80, 0x180, 0x280, 0x480, 0x580], ids=hex)
def test_a_header_may_have_the_length_that_begins_like_a_pickle(file, length):
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    file.write_bytes(length.to_bytes(8, "little") + header + ONE.numpy().tobytes())
    assert read_tensor_file(file)["a"].tolist() == [1, 1]


@frozen
class Lying:
    """It claims to be a tensor over memory that it does not have."""

    arguments: tuple

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


STORAGE = torch.ones(4)._typed_storage()
NOT_THERE = "a reaches beyond its numbers"
NOT_MADE = "a is not a valid tensor"
LIES = {
    "beyond": ((STORAGE, 0, (100,), (1,), False, {}), NOT_THERE),
    "before": ((STORAGE, -1, (2,), (1,), False, {}), NOT_THERE),
    "negative": ((STORAGE, 0, (-2,), (1,), False, {}), NOT_THERE),
    "backwards": ((STORAGE, 3, (2,), (-1,), False, {}), NOT_THERE),
    "far-steps": ((STORAGE, 0, (2, 2), (2**63, 1), False, {}), NOT_THERE),
    "fewer-steps": ((STORAGE, 0, (2, 2), (1,), False, {}), NOT_THERE),
    "no-number": ((STORAGE, 0, ("2",), (1,), False, {}), NOT_THERE),
    "no-size": ((STORAGE, 0, "ab", (1,), False, {}), NOT_MADE),
    "no-memory": ((None, 0, (2,), (1,), False, {}), NOT_MADE),
    "no-arguments": ((), NOT_MADE),
}


@pytest.mark.parametrize(("arguments", "said"), LIES.values(), ids=LIES)
def test_a_tensor_over_other_memory_than_there_is_is_refused(file, model, arguments, said):
    torch.save({"a": Lying(arguments)}, file)
    with pytest.raises(SpecError) as raised:
        load_weights(model, file)
    assert str(raised.value) == f"{file}: error[weights] is damaged ({said}).\n  fix: {AGAIN}"


class Acting:
    """Pickled, it is a call that leaves a file behind."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return torch.save, (1, str(self.canary))


@pytest.mark.parametrize("place", ["beside", "among"])
def test_nothing_in_a_checkpoint_is_run(file, model, tmp_path, place):
    canary = tmp_path / "canary"
    state = state_of(trained())
    content = {"state_dict": state, "hyper_parameters": {"a": [Acting(canary)]}}
    torch.save(content if place == "beside" else {**state, "extra": Acting(canary)}, file)

    if place == "beside":
        load_weights(model, file)
        assert unlike(state_of(model), state) == []
    else:
        with pytest.raises(SpecError, match=r"holds tensors by name beside 1 other values \(extra\)\."):
            load_weights(model, file)
    assert not canary.exists()


def test_python_itself_would_have_run_it(file, tmp_path):
    torch.save([Acting(tmp_path / "canary")], file)
    torch.load(file, weights_only=False)
    assert (tmp_path / "canary").exists()
