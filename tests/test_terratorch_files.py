"""Checkpoints of every form, and files that are none: tensors are all that is read, and nothing is run."""

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
from composer.tensors.files import read_tensor_file
from tests.checkpoints import GRAPH, lightning, state_of, trained, unlike


@pytest.fixture
def file(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.fixture
def model():
    return composer.build(GRAPH, seed=8)


def renaming(pattern, replacement):
    return lambda state, file: torch.save({re.sub(pattern, replacement, name): x for name, x in state.items()}, file)


def under(name):
    return lambda state, file: torch.save({"epoch": 1, name: state, "optimizer": [state]}, file)


def save_parameters(state, file):
    torch.save({name: nn.Parameter(x) if x.is_floating_point() else x for name, x in state.items()}, file)


def save_views(state, file):
    """Views of one tensor: other strides, and an offset."""
    views = {}
    for name, x in state.items():
        backwards = tuple(reversed(range(x.dim())))
        memory = torch.zeros(2, *reversed(x.shape), dtype=x.dtype)
        memory[1] = x.permute(backwards)
        views[name] = memory[1].permute(backwards)
    torch.save(views, file)


FORMS = {
    "plain": torch.save,
    "safetensors": safetensors.torch.save_file,
    "state_dict": under("state_dict"),
    "model": under("model"),
    "model_state_dict": under("model_state_dict"),
    "lightning": lambda state, file: torch.save(lightning(state), file),
    # An older TerraTorch held timm's network in a child of its wrapper.
    "old": renaming(r"^encoder\.", "encoder._timm_module."),
    "data-parallel": renaming("^", "module."),
    # torch.compile around a data parallel model, in a task of Lightning's.
    "compiled": lambda state, file: torch.save(
        {"state_dict": {f"model._orig_mod.module.{name}": x for name, x in state.items()}}, file
    ),
    "compiled-encoder": renaming(r"^encoder\.", "encoder._orig_mod."),
    "parameters": save_parameters,
    "protocol-4": lambda state, file: torch.save(state, file, pickle_protocol=4),
    "views": save_views,
}


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_a_checkpoint_of_every_form_is_loaded(write, file, model):
    state = state_of(trained())
    write(state, file)

    composer.load_weights(model, str(file))

    assert unlike(state_of(model), state) == []


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

    composer.load_weights(model, file)

    assert unlike(state_of(model), state) == []
    assert Remembered.read == 0


def rezipped(change):
    """The records of a file of torch, changed and written again."""

    def spoil(file):
        with zipfile.ZipFile(file) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        change(records)
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in records.items():
                archive.writestr(name, content)

    return spoil


def record(name, content):
    return rezipped(lambda records: records.update({next(iter(records)).split("/")[0] + f"/{name}": content}))


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


def folder(file):
    file.unlink()
    file.mkdir()


def saved(content, **options):
    return lambda file: torch.save(content, file, **options)


ONE = torch.ones(2)
NO_STATE = "save the state dict: torch.save(model.state_dict(), file)"
NEITHER = "give a file of safetensors, or one that torch.save wrote"
AGAIN = "save or copy it again"
NOT_OF_TORCH = "is damaged, or was not written by torch.save."
DAMAGED = {
    "nothing": (lambda file: file.unlink(), "is not a file.", "check the path"),
    "folder": (folder, "is a folder.", "check the path"),
    "empty": (lambda file: file.write_bytes(b""), "is not a safetensors file (", NEITHER),
    "text": (lambda file: file.write_text("state_dict"), "is a text.", NEITHER),
    "pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "is a pointer of git-lfs, and not the file itself.",
        "fetch the file: git lfs pull",
    ),
    "bare-pickle": (
        lambda file: file.write_bytes(pickle.dumps({"a": 1})),
        "is a pickle outside a zip archive, as torch wrote before 1.6.",
        "convert it: torch.save(torch.load(file, weights_only=True), file)",
    ),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), NOT_OF_TORCH, AGAIN),
    "headless": (headless, "is damaged (the numbers of encoder.conv1.0.weight cannot be read).", AGAIN),
    "far-away": (far_away, "is damaged (the numbers of encoder.conv1.0.weight cannot be read).", AGAIN),
    "another-zip": (
        rezipped(lambda records: (records.clear(), records.update({"word/a.xml": b"<a/>"}))),
        NOT_OF_TORCH,
        AGAIN,
    ),
    "no-pickle": (record("data.pkl", b"\x80"), NOT_OF_TORCH, AGAIN),
    "list": (saved([ONE]), "holds no tensors by name.", NO_STATE),
    "module": (saved(nn.Linear(2, 2)), "holds no tensors by name.", NO_STATE),
    "empty-state": (saved({"epoch": 1, "state_dict": {}}), "holds no tensors by name.", NO_STATE),
    "by-number": (saved({1: ONE}), "holds no tensors by name.", NO_STATE),
    "complex": (
        saved({"a": torch.ones(2, dtype=torch.complex64)}),
        "has no tensor of this model: a in the file, and encoder.conv1.0.weight, encoder.conv1.1.weight, ",
        "give a checkpoint of this model; for an encoder alone: pretrained: FILE in the spec",
    ),
}
"""What ends with a parenthesis or a space goes on, in the words of who refused."""


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize(("damage", "said", "fix"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_cannot_be_read_is_one_problem(file, model, damage, said, fix):
    torch.save(state_of(trained()), file)
    damage(file)
    before = state_of(model)

    with pytest.raises(SpecError) as raised:
        composer.load_weights(model, file)

    (problem,) = raised.value.problems
    assert problem.message.startswith(said) if said[-1] in "( " else problem.message == said
    assert (problem.code, problem.place.file, problem.fix) == ("weights", str(file), fix)
    assert unlike(state_of(model), before) == []


def test_a_file_that_may_not_be_read_is_one_problem(file, model, monkeypatch):
    torch.save(state_of(trained()), file)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(SpecError) as raised:
            composer.load_weights(model, file)
    assert str(raised.value) == (
        f"{file}: error[weights] cannot be read (Permission denied).\n  fix: check the file and its permissions"
    )


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
    "negative": ((STORAGE, 0, (-2,), (1,), False, {}), NOT_THERE),
    "far-steps": ((STORAGE, 0, (2, 2), (2**63, 1), False, {}), NOT_THERE),
    "no-memory": ((None, 0, (2,), (1,), False, {}), NOT_MADE),
}


@pytest.mark.parametrize(("arguments", "said"), LIES.values(), ids=LIES)
def test_a_tensor_over_other_memory_than_there_is_is_refused(file, model, arguments, said):
    torch.save({"a": Lying(arguments)}, file)
    with pytest.raises(SpecError) as raised:
        composer.load_weights(model, file)
    assert str(raised.value) == f"{file}: error[weights] is damaged ({said}).\n  fix: {AGAIN}"
