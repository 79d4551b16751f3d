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
from composer.parts.heads import SegmentationHead

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
    composer.load_weights(model, file)
    assert unlike(state_of(model), state_of(trained())) == []


def test_parameters_stay_the_same_objects(file):
    """An optimiser that holds them goes on working."""
    model = composer.build(GRAPH, seed=8)
    before = {name: id(p) for name, p in model.named_parameters()}
    composer.load_weights(model, str(file))
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
    composer.load_weights(other, tmp_path / "half.safetensors")
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
        "error[yaml] encoder: Custom holds a live module, which cannot be written in a spec.\n"
        "  fix: declare the encoder as a class of your own, and register its contract and module"
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


HOW = {"load_weights": composer.load_weights, "load": lambda model, file: composer.load(file)}
UNFIT = [
    pytest.param(
        lambda state: state.pop("head.head.2.bias"),
        "lacks 1 tensor of the model: 1 of head (head.head.2.bias).",
        '["head.*"]',
        id="missing",
    ),
    pytest.param(
        lambda state: state.update(extra=torch.ones(2)),
        "has 1 tensor that the model does not have: 1 of extra (extra).",
        '["extra"]',
        id="unexpected",
    ),
    pytest.param(
        lambda state: state.update({"head.head.2.bias": torch.ones(3)}),
        "has 1 tensor of another shape or type than the model's: 1 of head (head.head.2.bias is [3] and must be [2]).",
        '["head.*"]',
        id="another-shape",
    ),
    pytest.param(
        lambda state: state.update({"head.head.2.bias": torch.ones(2).int()}),
        "has 1 tensor of another shape or type than the model's: 1 of head "
        "(head.head.2.bias is int32 [2] and must be float32 [2]).",
        '["head.*"]',
        id="another-type",
    ),
    pytest.param(
        lambda state: [state.pop(name) for name in [name for name in state if name.startswith("decoder.")]],
        "lacks 6 tensors of the model: 6 of decoder (decoder.convs.0.0.weight, decoder.convs.0.0.bias, "
        "decoder.convs.0.1.weight and 3 more).",
        '["decoder.*"]',
        id="many-missing",
    ),
]


@pytest.mark.parametrize(("change", "said", "ignore"), UNFIT)
@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_a_file_that_does_not_fit_is_refused_whole(file, change, said, ignore, how):
    spoiled(file, change)
    model = composer.build(GRAPH, seed=8)
    before = state_of(model)
    fix = f"give a checkpoint of this very model, or allow it: load_weights(model, file, ignore={ignore})"
    message = f"{file}: error[weights] {said}\n  fix: {fix}"
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        how(model, file)
    assert unlike(state_of(model), before) == []


def keeping_more(model):
    """The model, whose decoder keeps more than tensors."""
    kind = type(model.decoder)
    model.decoder.__class__ = type("Keeping", (kind,), {"get_extra_state": lambda _: {"seen": 1}})
    return model


def test_extra_state_that_is_no_tensor_is_not_saved(tmp_path):
    with pytest.raises(SpecError) as caught:
        composer.save(keeping_more(composer.build(GRAPH)), tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'a.safetensors'}: error[weights] cannot be written because of decoder._extra_state (extra "
        "state, not a tensor).\n  fix: let the module keep that state as a tensor: register_buffer"
    )
    assert list(tmp_path.iterdir()) == []


def test_extra_state_that_is_no_tensor_is_refused(file):
    model = keeping_more(composer.build(GRAPH, seed=8))
    before = model.head.head[2].weight.detach().clone()
    message = (
        f"{file}: error[weights] cannot be put into a model whose decoder._extra_state holds extra "
        "state, not a tensor.\n  fix: let the module keep that state as a tensor: register_buffer"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.load_weights(model, file)
    assert torch.equal(model.head.head[2].weight, before)


def distributed(model, folder):
    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(model)


@pytest.fixture
def no_group():
    """What joined a group of processes leaves it."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def with_compiled_children(model, _):
    model.encoder = torch.compile(model.encoder)
    model.decoder = nn.DataParallel(torch.compile(model.decoder))
    return model


WRAPPERS = {
    "compiled": lambda model, _: torch.compile(model),
    "compiled-children": with_compiled_children,
    "data-parallel": lambda model, _: nn.DataParallel(model),
    "distributed": distributed,
    "sequential": lambda model, _: nn.Sequential(model),
    "several": lambda model, _: nn.Sequential(torch.compile(nn.DataParallel(model))),
}


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_only_wraps_a_model_is_not_saved(tmp_path, wrap):
    composer.save(wrap(trained(), tmp_path), tmp_path / "model.safetensors")
    loaded = composer.load(tmp_path / "model.safetensors")
    assert type(loaded) is composer.Model
    assert unlike(state_of(loaded), state_of(trained())) == []


@pytest.mark.usefixtures("no_group")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_weights_are_set_inside_of_what_wraps_a_model(file, tmp_path, wrap):
    model = composer.build(GRAPH, seed=8)
    composer.load_weights(wrap(model, tmp_path), file)
    assert [name for name, x in zip(state_of(trained()), model.state_dict().values(), strict=True) if x is None] == []
    assert all(
        torch.equal(x, y) for x, y in zip(model.state_dict().values(), state_of(trained()).values(), strict=True)
    )


class Tagged(torch.Tensor):
    """A tensor of a library's own kind, as torchao and others have."""


def shard(model):
    """The model as FSDP2 has it, over one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


class Adapted(nn.Module):
    """A layer of PEFT, as far as its names go."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Conv2d(4, 1, 1, bias=False)})


def set_weight(model, change):
    layer = model.head.head[2]
    layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)


def in_head(change):
    def changed(model):
        model.head.head[2] = change(model.head.head[2])

    return changed


HEADS = "head.head.2.parametrizations.weight"
LORA = "head.head.2.base_layer.weight, head.head.2.base_layer.bias, head.head.2.lora_A.default.weight"
FIRST = "encoder.conv1.0.weight, encoder.conv1.1.weight, encoder.conv1.1.bias"
HEAD = "head.head.2.weight"
NOT_AS_DESCRIBED = "(not as the spec describes the model)"
OF_THE_USER = "put the change into the spec, or save the weights alone: torch.save(model.state_dict(), file)"
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
        OF_THE_USER,
    ),
    "more": (
        lambda model: model.register_buffer("seen", torch.zeros(2)),
        f"seen {NOT_AS_DESCRIBED}",
        OF_THE_USER,
    ),
    "whole-numbers": (
        lambda model: set_weight(model, lambda x: x.to(torch.int8)),
        f"{HEAD} {NOT_AS_DESCRIBED}",
        OF_THE_USER,
    ),
    "float8": (
        lambda model: set_weight(model, lambda x: x.to(torch.float8_e4m3fn)),
        f"{HEAD} (float8_e4m3fn)",
        "cast the model first: model.float()",
    ),
    "sparse": (
        lambda model: set_weight(model, lambda x: x.to_sparse()),
        f"{HEAD} (sparse or quantised)",
        "convert it first: tensor.to_dense(), or tensor.dequantize()",
    ),
    "subclass": (
        lambda model: set_weight(model, lambda x: x.as_subclass(Tagged)),
        f"{HEAD} (Tagged, not a plain tensor)",
        "save the model before it is converted, or a copy in plain tensors",
    ),
    "meta": (
        lambda model: model.to("meta"),
        f"{FIRST} and 35 more (no numbers on the meta device)",
        "build the model on the CPU",
    ),
}


@pytest.mark.parametrize(("change", "said", "fix"), CHANGED.values(), ids=CHANGED)
def test_what_would_not_be_loaded_is_not_saved(tmp_path, change, said, fix):
    """All that is refused is refused before a byte is written, with the names of the first tensors and the way out."""
    model = composer.build(GRAPH)
    change(model)
    with pytest.raises(SpecError) as caught:
        composer.save(model, tmp_path / "model.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: error[weights] cannot be written because of {said}.\n  fix: {fix}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_group")
def test_a_sharded_model_is_not_saved(tmp_path):
    distributed(nn.Linear(1, 1), tmp_path)
    with pytest.raises(SpecError) as caught:
        composer.save(shard(composer.build(GRAPH)), tmp_path / "model.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: error[weights] cannot be written because of {FIRST} and 20 more "
        "(DTensor, not a plain tensor).\n"
        "  fix: gather it first: torch.distributed.checkpoint.state_dict.get_model_state_dict with "
        "full_state_dict=True, loaded into composer.build(model.graph)"
    )
    assert not (tmp_path / "model.safetensors").exists()


def test_a_change_that_was_undone_is_saved(tmp_path):
    model = trained()
    layer = torch.nn.utils.parametrizations.weight_norm(model.head.head[2])
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")
    composer.save(model, tmp_path / "model.safetensors")
    image = torch.rand(1, 3, 37, 50)
    assert torch.equal(composer.load(tmp_path / "model.safetensors").eval()(image).output, model.eval()(image).output)


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
    pytest.param(nothing, "is not a file", "check the path", id="nothing"),
    pytest.param(folder, "is a folder", "check the path", id="folder"),
    pytest.param(empty, "is not a safetensors file (", "give a file that composer.save wrote", id="empty"),
    pytest.param(truncated, "is not a safetensors file (", "give a file that composer.save wrote", id="truncated"),
    pytest.param(garbled, "is not a safetensors file (", "give a file that composer.save wrote", id="garbled"),
    pytest.param(pickled, "is not a safetensors file (", "give a file that composer.save wrote", id="pickle"),
]
"""What ends with a parenthesis goes on in safetensors' own words."""


@pytest.mark.parametrize(("damage", "said", "fix"), DAMAGED)
def test_a_damaged_file_is_one_problem(file, damage, said, fix):
    damage(file)
    with pytest.raises(SpecError) as raised:
        composer.load(file)
    (problem,) = raised.value.problems
    assert problem.message.startswith(said)
    assert (problem.code, problem.place.file, problem.fix) == ("weights", str(file), fix)


def test_a_file_without_a_spec_is_not_loaded(file):
    spoiled(file, lambda state: None, metadata={"format": "pt"})
    message = (
        f"{file}: error[weights] holds no spec, so it was not written by composer.save.\n"
        "  fix: build the model, then composer.load_weights"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        composer.load(file)


def test_a_file_without_a_spec_is_restored_from(file):
    spoiled(file, lambda state: None, metadata={"format": "pt"})
    model = composer.build(GRAPH, seed=8)
    composer.load_weights(model, file)
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
    "pipe": (into_a_pipe, r"^\[Errno 22\] Not a regular file, so it is not replaced: '.*pipe'$"),
    "link-to-a-pipe": (through_a_link, r"^\[Errno 22\] Not a regular file, so it is not replaced: '.*link'$"),
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
