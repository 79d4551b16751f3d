"""Weights in files: what is saved comes back bit by bit, from its file alone, all of it or nothing."""

import os
import re
import stat

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import nn
from torch.nn.utils import prune

import composer
from composer.errors import SpecError
from composer.layouts import Feature
from composer.parts.decoders import FCNDecoder
from composer.parts.encoders import Custom, Timm
from composer.parts.heads import EmbeddingHead, SegmentationHead
from tests.checkpoints import GRAPH, state_of, trained, unlike

SPEC = "composer.spec"
SWIN = {"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
EVA = {"depth": 1, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def file(tmp_path):
    """What `save` writes of a trained model."""
    composer.save(trained(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


ENCODERS = {
    "counters": Timm("test_resnet", out_indices=[1]),
    "tables": Timm("swinv2_cr_tiny_224", out_indices=[1], options=SWIN),
    "rotations": Timm("eva02_tiny_patch14_224", img_size=56, out_indices=[0], options=EVA),
}
"""Networks that keep numbers beside their parameters, some of which are not in a state dict."""


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_a_model_comes_back_bit_by_bit(tmp_path, encoder):
    graph, (side, _) = composer.chain(encoder, EmbeddingHead()), encoder.img_size or (64, 64)
    model = trained(graph, side=side)
    composer.save(model, tmp_path / "model.safetensors")

    loaded = composer.load(tmp_path / "model.safetensors")

    assert loaded.graph == graph
    assert unlike(state_of(loaded), state_of(model)) == []
    assert unlike(dict(loaded.named_buffers()), dict(model.named_buffers())) == []
    x = torch.rand(1, 3, side, side)
    assert torch.equal(loaded.eval()(x).output[0], model.eval()(x).output[0])


def test_the_file_is_plain_safetensors_with_the_spec_as_text(file):
    with safe_open(file, framework="pt") as tensors:
        assert composer.reads(tensors.metadata()[SPEC]) == GRAPH
    expected = state_of(trained())
    state = safetensors.torch.load_file(file)
    assert state.keys() == expected.keys()
    assert unlike({name: state[name] for name in expected}, expected) == []


PRECISIONS = {
    "float16": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "float64": lambda model: model.double(),
    "head": lambda model: model.head.half(),
}


@pytest.mark.parametrize("cast", PRECISIONS.values(), ids=PRECISIONS)
def test_a_model_comes_back_in_its_precision(tmp_path, cast):
    model = trained()
    cast(model)
    composer.save(model, tmp_path / "model.safetensors")
    assert unlike(state_of(composer.load(tmp_path / "model.safetensors")), state_of(model)) == []


def test_loading_does_not_look_for_published_weights(tmp_path):
    """They were needed once, and may be gone from where they came."""
    encoder = Timm("test_resnet", out_indices=[1], pretrained=str(tmp_path / "gone.pth"))
    graph = composer.chain(encoder, FCNDecoder(channels=4, num_convs=1), SegmentationHead(num_classes=2))
    composer.save(composer.build(graph, pretrained=False), tmp_path / "model.safetensors")
    assert composer.load(tmp_path / "model.safetensors").graph == graph


def test_a_graph_without_a_text_is_not_saved(tmp_path):
    model = composer.build(composer.chain(Custom(nn.Conv2d(3, 3, 1), features=Feature(channels=3))))
    with pytest.raises(SpecError, match=r"^error\[yaml\] encoder: Custom holds a live module, which cannot be written"):
        composer.save(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def rewrite(file, change=lambda state: None, metadata=None):
    """Change the tensors or the metadata of a file."""
    with safe_open(file, framework="pt") as tensors:
        kept = tensors.metadata() if metadata is None else metadata
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file, metadata=kept)


def keep_more(model):
    """Let the decoder keep more than tensors."""
    model.decoder.__class__ = type("Keeping", (type(model.decoder),), {"get_extra_state": lambda _: {"seen": 1}})


def distribute(model, folder):
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


@pytest.fixture
def no_group():
    """What joined a group of processes leaves it."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def compile_children(model, _):
    model.encoder = torch.compile(model.encoder)
    model.decoder = nn.DataParallel(torch.compile(model.decoder))
    return model


WRAPPERS = {
    "compiled": lambda model, _: torch.compile(model),
    "compiled-children": compile_children,
    "distributed": distribute,
    "several": lambda model, _: nn.Sequential(torch.compile(nn.DataParallel(model))),
}


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_only_wraps_a_model_is_not_saved_and_is_filled(tmp_path, wrap):
    composer.save(wrap(trained(), tmp_path), tmp_path / "model.safetensors")
    loaded, model = composer.load(tmp_path / "model.safetensors"), composer.build(GRAPH, seed=8)
    assert type(loaded) is composer.Model
    assert unlike(state_of(loaded), state_of(trained())) == []

    composer.load_weights(wrap(model, tmp_path), tmp_path / "model.safetensors")

    pairs = zip(state_of(model).values(), state_of(trained()).values(), strict=True)
    assert [torch.equal(*pair) for pair in pairs] == [True] * 38


class Tagged(torch.Tensor):
    """A tensor of a library's own kind, as torchao and others have."""


class Adapted(nn.Module):
    """A layer of PEFT, as far as its names go."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Conv2d(4, 1, 1, bias=False)})


def set_weight(change):
    def changed(model):
        layer = model.head.head[2]
        layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)

    return changed


def in_head(change):
    def changed(model):
        model.head.head[2] = change(model.head.head[2])

    return changed


HEADS = "head.head.2.parametrizations.weight"
LORA = "head.head.2.base_layer.weight, head.head.2.base_layer.bias, head.head.2.lora_A.default.weight"
FIRST = "encoder.conv1.0.weight, encoder.conv1.1.weight, encoder.conv1.1.bias"
HEAD = "head.head.2.weight"
NOT_AS_DESCRIBED = "(not as the spec describes the model)"
CHANGED = {
    "parametrized": (
        in_head(torch.nn.utils.parametrizations.weight_norm),
        f"{HEADS}.original0, {HEADS}.original1, {HEAD} {NOT_AS_DESCRIBED}",
        "remove them first: torch.nn.utils.parametrize.remove_parametrizations(layer, name)",
    ),
    "pruned": (
        in_head(lambda layer: prune.random_unstructured(layer, "weight", 0.5)),
        f"head.head.2.weight_orig, head.head.2.weight_mask, {HEAD} {NOT_AS_DESCRIBED}",
        "make it permanent first: torch.nn.utils.prune.remove(layer, name)",
    ),
    "adapted": (
        in_head(Adapted),
        f"{LORA} and 2 more {NOT_AS_DESCRIBED}",
        "merge the adapters first: merge_and_unload()",
    ),
    "replaced": (
        in_head(lambda _: nn.Conv2d(4, 5, 1)),
        f"{HEAD}, head.head.2.bias {NOT_AS_DESCRIBED}",
        "put the change into the spec, or save the weights alone: torch.save(model.state_dict(), file)",
    ),
    "float8": (
        set_weight(lambda x: x.to(torch.float8_e4m3fn)),
        f"{HEAD} (float8_e4m3fn)",
        "cast the model first: model.float()",
    ),
    "sparse": (
        set_weight(lambda x: x.to_sparse()),
        f"{HEAD} (sparse or quantised)",
        "convert it first: tensor.to_dense(), or tensor.dequantize()",
    ),
    "subclass": (
        set_weight(lambda x: x.as_subclass(Tagged)),
        f"{HEAD} (Tagged, not a plain tensor)",
        "save the model before it is converted, or a copy in plain tensors",
    ),
    "meta": (
        lambda model: model.to("meta"),
        f"{FIRST} and 35 more (no numbers on the meta device)",
        "build the model on the CPU",
    ),
    "extra": (
        keep_more,
        "decoder._extra_state (extra state, not a tensor)",
        "let the module keep that state as a tensor: register_buffer",
    ),
}


@pytest.mark.parametrize(("change", "said", "fix"), CHANGED.values(), ids=CHANGED)
def test_what_would_not_be_loaded_is_not_saved(tmp_path, change, said, fix):
    """All that is refused is refused before a byte is written, with the names of the first tensors and the way out."""
    model, file = composer.build(GRAPH), tmp_path / "model.safetensors"
    change(model)
    with pytest.raises(SpecError) as caught:
        composer.save(model, file)
    assert str(caught.value) == f"{file}: error[weights] cannot be written because of {said}.\n  fix: {fix}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_group")
def test_a_sharded_model_is_not_saved(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distribute(nn.Linear(1, 1), tmp_path)
    model = fully_shard(composer.build(GRAPH), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(SpecError) as caught:
        composer.save(model, tmp_path / "model.safetensors")
    (problem,) = caught.value.problems
    assert problem.message == f"cannot be written because of {FIRST} and 20 more (DTensor, not a plain tensor)."
    assert problem.fix.startswith("gather it first: torch.distributed.checkpoint.state_dict.get_model_state_dict with ")
    assert not (tmp_path / "model.safetensors").exists()


UNSETTABLE = {
    "one-place": (
        lambda model: setattr(model.head.head[2], "bias", nn.Parameter(torch.zeros(1).expand(2))),
        "head.head.2.bias (several of its numbers in one place)",
        "give that tensor memory of its own: .clone()",
    ),
}


@pytest.mark.parametrize(("change", "said", "fix"), UNSETTABLE.values(), ids=UNSETTABLE)
def test_a_model_that_cannot_be_set_is_left_as_it_was(file, change, said, fix):
    model = composer.build(GRAPH, seed=8)
    change(model)
    before = model.head.head[2].bias.detach().clone()
    with pytest.raises(SpecError) as caught:
        composer.load_weights(model, file)
    assert str(caught.value) == f"{file}: error[weights] cannot be put into the model because of {said}.\n  fix: {fix}"
    assert before.is_meta or torch.equal(model.head.head[2].bias, before)


def test_a_tensor_that_cannot_be_set_is_named(file, monkeypatch):
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


LAYOUTS = {
    "channels last": lambda tensor: tensor.to(memory_format=torch.channels_last),
    "every second": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_tensors_of_any_layout_are_set_and_saved(tmp_path, file, layout):
    model = composer.build(GRAPH, seed=8)
    weight = model.get_parameter(HEAD)
    weight.data = layout(weight.data)
    composer.load_weights(model, file)
    assert unlike(state_of(model), state_of(trained())) == []
    composer.save(model, tmp_path / "again.safetensors")
    assert unlike(state_of(composer.load(tmp_path / "again.safetensors")), state_of(trained())) == []


class Task(nn.Module):
    """What a training framework puts around a model."""

    def __init__(self, model):
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()
        self.network = nn.Sequential(model, nn.Softmax(1))


NO_MODELS = {
    "a layer": (lambda: nn.Linear(2, 2), "a Linear"),
    "no module": (lambda: {"a": 1}, "a dict"),
    "a task": (lambda: Task(composer.build(GRAPH)), "a Task, which holds one: give its network.0"),
}


@pytest.mark.parametrize("function", [composer.save, composer.load_weights], ids=["save", "load_weights"])
@pytest.mark.parametrize(("made", "said"), NO_MODELS.values(), ids=NO_MODELS)
def test_what_composer_did_not_build_is_refused(tmp_path, function, made, said):
    message = f"composer.{function.__name__} takes a model that composer.build made (got {said})"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        function(made(), tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


WITHOUT_SPEC = {
    "safetensors": lambda file: rewrite(file, metadata={"format": "pt"}),
    "pickle": lambda file: torch.save(state_of(trained()), file),
}


@pytest.mark.parametrize("change", WITHOUT_SPEC.values(), ids=WITHOUT_SPEC)
def test_a_file_without_a_spec_fills_a_model_but_is_not_loaded(file, change):
    change(file)
    message = (
        f"{file}: error[weights] holds no spec, so it was not written by composer.save.\n"
        "  fix: build the model, then composer.load_weights"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.load(file)
    model = composer.build(GRAPH, seed=8)
    composer.load_weights(model, file)
    assert unlike(state_of(model), state_of(trained())) == []


def test_saving_changes_nothing_in_the_model_and_replaces_what_was_there(file):
    model = composer.build(GRAPH, seed=8)
    before = state_of(model)
    file.chmod(0o604)
    composer.save(model, file)
    assert unlike(state_of(composer.load(file)), before) == []
    assert unlike(state_of(model), before) == []
    assert model.training
    assert stat.S_IMODE(file.stat().st_mode) == 0o604
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("kind", [OSError, safetensors.SafetensorError])
def test_saving_that_fails_leaves_what_was_there(file, monkeypatch, kind):
    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise kind("no space left on device")

    before = file.read_bytes()
    monkeypatch.setattr("composer.weights.save_file", full)
    with pytest.raises(OSError, match=r"no space left on device$"):
        composer.save(composer.build(GRAPH, seed=8), file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_file_has_the_rights_of_any_other(tmp_path):
    composer.save(trained(), tmp_path / "model.safetensors")
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o640


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


def make_pipe(folder):
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def make_circle(folder):
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


UNWRITABLE = {
    "pipe": (make_pipe, r"^\[Errno 22\] Not a regular file, so it is not replaced: '.*pipe'$"),
    "circle": (make_circle, r"^\[Errno 22\] Symlink loop from '.*circle': '.*circle'$"),
    "folder": (lambda folder: folder, r"^\[Errno 21\] Is a directory: '.*'$"),
    "no folder": (lambda folder: folder / "none" / "a.safetensors", "No such file or directory"),
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
