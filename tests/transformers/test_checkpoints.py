"""Checkpoints and configs of transformers: weights by their own names, and what is said where they cannot be had."""

from __future__ import annotations

import json
import os
import socket

import pytest
import safetensors.torch
import torch
from transformers import ResNetBackbone, ResNetConfig, ResNetForImageClassification, __version__

import composer
from composer.adapters.transformers import Transformers
from composer.errors import SpecError

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}


def built(part, channels=3, **options):
    graph = composer.chain(part, composer.EmbeddingHead(), input=composer.Image(channels=channels))
    return composer.build(graph, **options)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of a classifier, as they are published."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        ResNetForImageClassification(ResNetConfig(**SMALL)).save_pretrained(tmp_path)
    return tmp_path


def rewritten(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_checkpoint_is_what_transformers_makes_of_it(folder):
    model = built(Transformers(f"{folder}", out_indices=[1, 4], pretrained=True)).eval()
    peer = ResNetBackbone.from_pretrained(folder, out_indices=[1, 4]).eval()
    image = torch.rand(1, 3, 64, 96)

    assert list(model.encoder.state_dict()) == list(peer.state_dict())
    with torch.no_grad():
        pairs = list(zip(model(image).output, peer(image).feature_maps, strict=True))
    assert [torch.equal(one, other) for one, other in pairs] == [True, True]


def of_classifier(folder, change=lambda state: state):
    """A checkpoint in a file with other names or tensors, and the backbone that transformers makes of it as it was."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save({"state_dict": change(state)}, folder / "changed.ckpt")
    return str(folder / "changed.ckpt"), ResNetBackbone.from_pretrained(folder).state_dict()


def headless(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}


NAMED = {
    "a classifier": (lambda state: state, "", 2),
    "headless": (headless, "", 0),
    "of a task": (
        lambda state: (
            {f"model.encoder.{n.removeprefix('resnet.')}": x for n, x in headless(state).items()}
            | {"model.decoder.weight": torch.ones(2)}
        ),
        "model.encoder",
        1,
    ),
    "module": (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "module.resnet", 2),
}


@pytest.mark.parametrize(("change", "prefix", "unused"), NAMED.values(), ids=NAMED)
def test_a_file_is_used_in_full(folder, change, prefix, unused):
    file, peer = of_classifier(folder, change)
    model = built(Transformers("resnet", options=SMALL, pretrained=file))
    state = model.encoder.state_dict()
    assert list(state) == list(peer)
    assert [name for name in state if not torch.equal(state[name], peer[name])] == []
    report = model.loaded_weights["encoder"]
    assert (report.file, report.prefix, len(report.unused)) == (file, prefix, unused)


def test_code_of_a_checkpoint_is_not_run(folder):
    (folder / "own.py").write_text(f"open({str(folder / 'written')!r}, 'w')\n")
    rewritten(folder, auto_map={"AutoConfig": "own.Config", "AutoBackbone": "own.Net"})
    built(Transformers(f"{folder}", pretrained=True))
    assert not (folder / "written").exists()


def refused(part, channels=3):
    with pytest.raises(SpecError) as raised:
        built(part, channels)
    (problem,) = raised.value.problems
    return problem


def test_weights_that_are_not_there_are_one_problem(folder):
    (folder / "model.safetensors").unlink()
    problem = refused(Transformers(f"{folder}", pretrained=True))
    assert problem.message == (
        f"transformers/{folder} cannot load the weights of this checkpoint (got FileNotFoundError: there is neither "
        f"model.safetensors nor pytorch_model.bin in {folder})."
    )
    assert problem.fix == ("check the connection, give the path of a weights file, or set pretrained: false")
    assert problem.place.path == "encoder.pretrained"


def test_an_architecture_has_no_weights():
    problem = refused(Transformers("resnet", pretrained=True, options=SMALL))
    assert problem.message == "transformers/resnet is an architecture, and has no weights (got pretrained: true)."
    assert problem.fix == "name a checkpoint, transformers/OWNER/resnet-…, or set pretrained: false"


CODE = {
    "attn_implementation": "somebody/kernels",
    "experts_implementation": "somebody/kernels",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}


@pytest.mark.parametrize("name", CODE)
def test_a_checkpoint_picks_no_code(folder, name):
    """transformers fetches some of it from the hub, and runs it."""
    rewritten(folder, **{name: CODE[name]})
    network = built(Transformers(f"{folder}", pretrained=True)).get_submodule("encoder").network
    assert "somebody" not in json.dumps(network.config.to_dict(), default=str)
    assert getattr(network.config, "quantization_config", None) is None


@pytest.mark.parametrize(
    "fields", [{"embedding_size": 10**9}, {"depths": [40_000, 40_000, 1, 1]}], ids=["number", "list"]
)
def test_a_config_that_would_never_end_is_refused(folder, fields):
    rewritten(folder, **fields)
    (name, value), *_ = fields.items()
    number = value if isinstance(value, int) else sum(value)
    assert refused(Transformers(f"{folder}")).message == (
        f"transformers/{folder} has a config whose {name} comes to at most 65,536 (got {number:,})."
    )


def test_a_config_that_is_no_file_is_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert refused(Transformers(f"{folder}")).got == "OSError: it is not a file"


def test_a_config_of_any_size_is_not_read(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**20 + 1)
    assert refused(Transformers(f"{folder}")).got == "ValueError: it has more than 1,048,576 bytes"


def pickled(folder, shards=1):
    """The checkpoint of a folder as torch.save wrote it, in one file or in several with their index."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    map_ = {name: f"part-{number % shards}.bin" for number, name in enumerate(state)}
    for file in set(map_.values()):
        torch.save({name: tensor for name, tensor in state.items() if map_[name] == file}, folder / file)
    write_index(folder, map_, "pytorch_model.bin")


def sharded(folder):
    """The same in several files of safetensors."""
    ResNetForImageClassification.from_pretrained(folder).save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def write_index(folder, files, whole="model.safetensors"):
    (folder / f"{whole}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


FORMS = {
    "safetensors": lambda folder: None,
    "shards of safetensors": sharded,
    "pickle": pickled,
    "shards of pickles": lambda folder: pickled(folder, shards=3),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_weights_are_the_same_in_every_form(folder, form, monkeypatch):
    peer = ResNetBackbone.from_pretrained(folder).state_dict()
    form(folder)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a library unpickled it"))
    state = built(Transformers(f"{folder}", pretrained=True)).encoder.network.state_dict()
    assert list(state) == list(peer)
    assert [name for name in state if not torch.equal(state[name], peer[name])] == []


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No address can be looked up, and nothing has been downloaded before."""

    def unreachable(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def test_without_a_connection_there_is_one_problem(offline):
    problem = refused(Transformers("microsoft/resnet-18"))
    assert problem.message.startswith(
        "transformers/microsoft/resnet-18 cannot read the config of this checkpoint (got "
    )
    assert problem.fix == ("check the name and the connection, or give the path of a folder that holds the checkpoint")
    assert offline == []


NO_FILE = "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/config.json'"
CASES = {
    "a field of transformers' own": (
        Transformers("resnet", options={"_attn_implementation": "somebody/kernels"}),
        "transformers/resnet has no field '_attn_implementation' in its config (got transformers VERSION).",
        None,
    ),
    "no architecture": (
        Transformers("resnt"),
        "transformers/resnt is not an architecture that AutoBackbone makes (got transformers VERSION).",
        "did you mean resnet?",
    ),
    "no folder": (
        Transformers("./nowhere"),
        f"transformers/./nowhere cannot read the config of this checkpoint (got {NO_FILE}).",
        "give the path of a folder that holds a config.json",
    ),
    "no stage": (
        Transformers("resnet", out_indices=[1, 5]),
        "transformers/resnet has stages 0 to 4 (got stage 5).",
        "use out_indices from -5 to 4",
    ),
    "another order": (
        Transformers("resnet", out_indices=[3, 1]),
        "transformers/resnet gives its stages in its own order, each once (got out_indices [3, 1]).",
        "out_indices: [1, 3], and SelectIndices for another order",
    ),
    "no stages at all": (
        Transformers("swin", options={"depths": []}),
        (
            "transformers/swin runs at no image size tried with 3 input channels (got RuntimeError: Given "
            "normalized_shape=[48], expected input with shape [*, 48], but got input of size[1, 3136, 96])."
        ),
        "correct or leave out depths",
    ),
    "no field": (
        Transformers("resnet", options={"depth": [1, 1]}),
        "transformers/resnet has no field 'depth' in its config (got transformers VERSION).",
        "did you mean depths?",
    ),
}


@pytest.mark.parametrize(("part", "message", "fix"), CASES.values(), ids=CASES)
def test_what_cannot_be_is_refused(part, message, fix):
    with pytest.raises(SpecError) as raised:
        composer.infer(composer.chain(part, composer.EmbeddingHead()))
    (problem,) = raised.value.problems
    assert (problem.message, fix or problem.fix) == (message.replace("VERSION", __version__), problem.fix)


def test_a_wrapper_of_timm_is_answered_with_the_network(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "timm_backbone", "backbone": "resnet18"}))
    assert refused(Transformers(f"{folder}")).fix == "use timm/resnet18"


def test_a_checkpoint_of_something_else_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    problem = refused(Transformers(f"{folder}"))
    assert problem.message == (
        f"transformers/{folder} is not a checkpoint of an architecture that AutoBackbone makes (got model_type 'bert')."
    )


@pytest.mark.parametrize("bands", [("BLUE", "GREEN", "RED"), ("NIR_BROAD", "BLUE", "GREEN", "RED")], ids=["3", "4"])
def test_kernels_are_matched_with_the_bands_of_the_input(folder, bands):
    peer = ResNetBackbone.from_pretrained(folder).get_parameter("embedder.embedder.convolution.weight")
    image = composer.Image(bands=bands)
    part = Transformers(f"{folder}", pretrained=True)
    model = composer.build(composer.chain(part, composer.EmbeddingHead(), input=image))
    by_band = {"RED": peer[:, 0], "GREEN": peer[:, 1], "BLUE": peer[:, 2], "NIR_BROAD": peer.mean(1)}
    expected = torch.stack([by_band[band] for band in bands], 1) * 3 / len(bands)
    torch.testing.assert_close(model.encoder.get_parameter("embedder.embedder.convolution.weight"), expected)
    assert model(torch.rand(1, len(bands), 64, 64)).output[0].isfinite().all()
