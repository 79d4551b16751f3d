"""Weights in files: what is saved comes back bit by bit, from its file alone, all of it or nothing."""

import os
import re
import stat

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

import composer
from composer import Custom, FCNDecoder, Feature, SegmentationHead, SpecError, Timm

GRAPH = composer.chain(
    Timm("test_resnet", out_indices=[1]), FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2)
)
SPEC = "composer.spec"


def trained(seed=3):
    """A model that has seen images, so that its statistics are not what they are when it is built."""
    model = composer.build(GRAPH, seed=seed).train()
    model(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return model


def state_of(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def unlike(one, other):
    """Names of the tensors that differ, in value, type or name."""
    assert list(one) == list(other)
    return [name for name, x in one.items() if x.dtype != other[name].dtype or not torch.equal(x, other[name])]


@pytest.fixture
def file(tmp_path):
    """What `save` writes of a trained model."""
    composer.save(trained(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_model_comes_back_bit_by_bit(file):
    loaded = composer.load(file)
    assert loaded.graph == GRAPH
    assert unlike(state_of(loaded), state_of(trained())) == []


def test_what_comes_back_gives_the_same(file):
    x = torch.rand(1, 3, 37, 50)
    assert torch.equal(composer.load(file).eval()(x).output, trained().eval()(x).output)


def test_weights_are_restored_into_a_model_that_is_there(file):
    model = composer.build(GRAPH, seed=8)
    assert unlike(state_of(model), state_of(trained())) != []
    composer.restore(model, file)
    assert unlike(state_of(model), state_of(trained())) == []


def test_parameters_stay_the_same_objects(file):
    """An optimiser that holds them goes on working."""
    model = composer.build(GRAPH, seed=8)
    before = {name: id(p) for name, p in model.named_parameters()}
    composer.restore(model, str(file))
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_the_spec_stands_in_the_file_as_text(file):
    with safe_open(file, framework="pt") as tensors:
        assert composer.reads(tensors.metadata()[SPEC]) == GRAPH


def test_the_file_is_plain_safetensors(file):
    expected = state_of(trained())
    state = safetensors.torch.load_file(file)
    assert unlike({name: state[name] for name in expected}, expected) == []
    assert len(state) == len(expected)


def test_a_model_of_half_precision_comes_back_into_one(tmp_path):
    model = trained().half()
    composer.save(model, tmp_path / "half.safetensors")
    other = composer.build(GRAPH, seed=8).half()
    composer.restore(other, tmp_path / "half.safetensors")
    assert unlike(state_of(other), state_of(model)) == []


def test_a_head_of_half_precision_comes_back_so(tmp_path):
    model = trained()
    model.head.half()
    composer.save(model, tmp_path / "model.safetensors")

    loaded = composer.load(tmp_path / "model.safetensors")

    assert unlike(state_of(loaded), state_of(model)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_file_of_one_precision_loads_as_a_model_of_it(tmp_path, dtype):
    model = trained().to(dtype)
    composer.save(model, tmp_path / "model.safetensors")

    loaded = composer.load(tmp_path / "model.safetensors")

    assert unlike(state_of(loaded), state_of(model)) == []


def test_loading_does_not_look_for_published_weights(tmp_path):
    """They were needed once, and may be gone from where they came."""
    encoder = Timm("test_resnet", out_indices=[1], pretrained=str(tmp_path / "gone.pth"))
    graph = composer.chain(encoder, FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2))
    composer.save(composer.build(graph, pretrained=False), tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").graph == graph


def test_a_graph_without_a_text_is_not_saved(tmp_path):
    model = composer.build(composer.chain(Custom(nn.Conv2d(3, 3, 1), features=Feature(channels=3))))
    message = (
        "error[text] encoder: Custom holds a live module, which has no text.\n"
        "  repair: declare the encoder as a class of your own, and register its contract and module"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.save(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def spoiled(file, change, metadata=None):
    """The file with its tensors changed."""
    with safe_open(file, framework="pt") as tensors:
        kept = tensors.metadata() if metadata is None else metadata
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file, metadata=kept)


UNFIT = [
    pytest.param(
        lambda state: state.pop("head.head.2.bias"),
        "does not fit the model: 1 missing (head.head.2.bias)",
        id="missing",
    ),
    pytest.param(
        lambda state: state.update(extra=torch.ones(2)), "does not fit the model: 1 unexpected (extra)", id="unexpected"
    ),
    pytest.param(
        lambda state: state.update({"head.head.2.bias": torch.ones(3)}),
        "does not fit the model: head.head.2.bias is float32 [3] and must be float32 [2]",
        id="another-shape",
    ),
    pytest.param(
        lambda state: state.update({"head.head.2.bias": torch.ones(2).int()}),
        "does not fit the model: head.head.2.bias is int32 [2] and must be float32 [2]",
        id="another-type",
    ),
    pytest.param(
        lambda state: [state.pop(name) for name in [name for name in state if name.startswith("decoder.")]],
        "does not fit the model: 6 missing (decoder.convs.0.0.bias, decoder.convs.0.0.weight, "
        "decoder.convs.0.1.bias, …)",
        id="many-missing",
    ),
    pytest.param(
        lambda state: state.update({name: x[None] for name, x in state.items() if name.startswith("decoder.")}),
        "does not fit the model: decoder.convs.0.0.bias is float32 [1, 4] and must be float32 [4]; "
        "decoder.convs.0.0.weight is float32 [1, 32, 4, 2, 2] and must be float32 [32, 4, 2, 2]; "
        "decoder.convs.0.1.bias is float32 [1, 4] and must be float32 [4]; "
        "decoder.convs.0.1.weight is float32 [1, 4, 4, 3, 3] and must be float32 [4, 4, 3, 3]; "
        "decoder.convs.0.2.ln.bias is float32 [1, 4] and must be float32 [4], and 1 more",
        id="many-shapes",
    ),
]


@pytest.mark.parametrize(("change", "said"), UNFIT)
@pytest.mark.parametrize("how", [composer.restore, lambda model, file: composer.load(file)], ids=["restore", "load"])
def test_a_file_that_does_not_fit_is_refused_whole(file, change, said, how):
    spoiled(file, change)
    model = composer.build(GRAPH, seed=8)
    before = state_of(model)
    message = f"{file}: error[weights] {said}.\n  repair: give the file of this very model"
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        how(model, file)
    assert unlike(state_of(model), before) == []


class Counting(nn.Linear):
    """A module that keeps more than tensors."""

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        raise AssertionError(state)


def test_extra_state_that_is_no_tensor_is_not_saved(tmp_path):
    model = composer.build(GRAPH)
    kind = type(model.decoder)
    model.decoder.__class__ = type("Keeping", (kind,), {"get_extra_state": lambda _: {"seen": 1}})
    with pytest.raises(SpecError) as caught:
        composer.save(model, tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'a.safetensors'}: error[weights] cannot keep decoder._extra_state, which is extra state and no "
        "tensor.\n  repair: let the module keep that state as a tensor: register_buffer"
    )
    assert list(tmp_path.iterdir()) == []


def test_extra_state_that_is_no_tensor_is_refused(tmp_path):
    safetensors.torch.save_file({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "a.safetensors")
    model = Counting(2, 2)
    before = model.weight.detach().clone()
    message = (
        f"{tmp_path / 'a.safetensors'}: error[weights] cannot be put into a model whose _extra_state holds extra "
        "state, which is no tensor.\n  repair: let the module keep that state as a tensor: register_buffer"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.restore(model, tmp_path / "a.safetensors")
    assert torch.equal(model.weight, before)


def nothing(file):
    file.unlink()


def empty(file):
    file.write_bytes(b"")


def truncated(file):
    file.write_bytes(file.read_bytes()[:-100])


def garbled(file):
    file.write_bytes(b"\xff" * 100 + file.read_bytes()[100:])


def pickled(file):
    torch.save({"weight": torch.ones(2)}, file)


def folder(file):
    file.unlink()
    file.mkdir()


DAMAGED = [
    pytest.param(nothing, "is no file", "check the path", id="nothing"),
    pytest.param(folder, "is a folder", "check the path", id="folder"),
    pytest.param(empty, "is no safetensors file (", "give a file that composer.save wrote", id="empty"),
    pytest.param(truncated, "is no safetensors file (", "give a file that composer.save wrote", id="truncated"),
    pytest.param(garbled, "is no safetensors file (", "give a file that composer.save wrote", id="garbled"),
    pytest.param(pickled, "is no safetensors file (", "give a file that composer.save wrote", id="pickle"),
]
"""What ends with a parenthesis goes on in safetensors' own words."""


@pytest.mark.parametrize(("damage", "said", "repair"), DAMAGED)
@pytest.mark.parametrize("how", [composer.restore, lambda model, file: composer.load(file)], ids=["restore", "load"])
def test_a_damaged_file_is_one_problem(file, damage, said, repair, how):
    damage(file)
    model = composer.build(GRAPH, seed=8)
    before = state_of(model)
    with pytest.raises(SpecError) as raised:
        how(model, file)
    (problem,) = raised.value.problems
    assert problem.message.startswith(said)
    assert (problem.code, problem.place.file, problem.repair) == ("weights", str(file), repair)
    assert unlike(state_of(model), before) == []


def test_a_file_without_a_spec_is_not_loaded(file):
    spoiled(file, lambda state: None, metadata={"format": "pt"})
    message = (
        f"{file}: error[weights] holds no spec, so it was not written by composer.save.\n"
        "  repair: build the model, then composer.restore"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.load(file)


def test_a_file_without_a_spec_is_restored_from(file):
    spoiled(file, lambda state: None, metadata={"format": "pt"})
    model = composer.build(GRAPH, seed=8)
    composer.restore(model, file)
    assert unlike(state_of(model), state_of(trained())) == []


def test_problems_of_the_spec_inside_name_the_file(file):
    spoiled(file, lambda state: None, metadata={SPEC: "encoder: timm/test_resnet\nhat: SegmentationHead\n"})
    with pytest.raises(SpecError) as raised:
        composer.load(file)
    assert str(raised.value).startswith(f"{file}: spec:2:1: error[key] hat:")


def test_saving_replaces_what_was_there(file):
    model = composer.build(GRAPH, seed=8)
    composer.save(model, file)
    assert unlike(state_of(composer.load(file)), state_of(model)) == []
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_saving_that_fails_leaves_what_was_there(file, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    before = file.read_bytes()
    monkeypatch.setattr("composer.weights.save_file", full)
    with pytest.raises(OSError, match=r"^no space left on device$"):
        composer.save(composer.build(GRAPH, seed=8), file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_saving_into_no_folder_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="No such file or directory"):
        composer.save(trained(), tmp_path / "none" / "model.safetensors")


def test_saving_changes_nothing_in_the_model(tmp_path):
    model = trained()
    before = state_of(model)
    composer.save(model, tmp_path / "model.safetensors")
    assert unlike(state_of(model), before) == []
    assert model.training


def rights(file):
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    composer.save(trained(), tmp_path / "model.safetensors")
    (tmp_path / "other").touch()
    assert rights(tmp_path / "model.safetensors") == rights(tmp_path / "other") == 0o640


def test_saving_keeps_the_rights_of_what_was_there(file):
    file.chmod(0o604)
    composer.save(trained(seed=5), file)
    assert rights(file) == 0o604


@pytest.mark.parametrize("exists", [True, False], ids=["of-a-file", "of-nothing-yet"])
def test_a_link_is_followed(tmp_path, exists):
    target, link = tmp_path / "folder" / "target.safetensors", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.write_bytes(b"stale")
    link.symlink_to(target)
    composer.save(trained(), link)
    assert link.is_symlink()
    assert unlike(state_of(composer.load(target)), state_of(trained())) == []
    assert [path.name for path in target.parent.iterdir()] == ["target.safetensors"]


def into_a_pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def through_a_link(folder):
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "pipe")
    return folder / "link"


def into_a_circle(folder):
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


UNWRITABLE = {
    "pipe": (into_a_pipe, r"^\[Errno 22\] This is no file that could be replaced: '.*pipe'$"),
    "link-to-a-pipe": (through_a_link, r"^\[Errno 22\] This is no file that could be replaced: '.*link'$"),
    "circle": (into_a_circle, r"^\[Errno 22\] Symlink loop from '.*circle': '.*circle'$"),
    "folder": (lambda folder: folder, r"^\[Errno 21\] Is a directory: '.*'$"),
    "here": (lambda folder: ".", r"^\[Errno 21\] Is a directory: '\.'$"),
    "too-long": (lambda folder: folder / ("a" * 300), r"^\[Errno 36\] File name too long: '.*a'$"),
    "zero": (lambda folder: "a\0b", r"^\[Errno 22\] embedded null byte: 'a\\x00b'$"),
}


@pytest.mark.parametrize(("place", "said"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_is_no_file_is_not_replaced(tmp_path, place, said):
    target = place(tmp_path)
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=said):
        composer.save(trained(), target)
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_a_file_that_may_not_be_written_to_is_not_replaced(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr("os.access", lambda path, mode: not (path == file and mode == os.W_OK))
    with pytest.raises(PermissionError, match=r"^\[Errno 13\] Permission denied: '.*model\.safetensors'$"):
        composer.save(trained(seed=5), file)
    assert file.read_bytes() == before
