"""A weights file is used in full, or refused: whatever it is called inside, and however the network is cut."""

from __future__ import annotations

import json
import re
import socket

import pytest
import safetensors.torch
import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder
from timm.models.convnext import checkpoint_filter_fn

import composer
from composer.adapters.smp.parts import SmpEncoder
from composer.cli.main import main
from composer.errors import SpecError
from composer.parts.encoders import Timm, WeightsFile
from composer.parts.heads import EmbeddingHead

NAME = "test_resnet"


def drawn(name, seed=5, **options):
    """A network of timm with weights that are not those of `build`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(name, **options)
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor))
    return network.eval()


def saved(state, folder, name="weights.pth"):
    torch.save(state, folder / name)
    return str(folder / name)


def built(part, channels=3, size=None):
    graph = composer.chain(part, EmbeddingHead(), input=composer.Image(channels=channels, size=size))
    return composer.build(graph)


def refused(part, **options):
    with pytest.raises(SpecError) as raised:
        built(part, **options)
    (problem,) = raised.value.problems
    assert (problem.code, problem.place.path) == ("weights", "encoder.pretrained")
    return problem


def unlike(encoder, state):
    """The tensors of an encoder that are not those of a state dict; it has some, and all are in it."""
    own = encoder.state_dict()
    assert own
    return [name for name, tensor in own.items() if name not in state or not torch.equal(tensor, state[name])]


@pytest.fixture(scope="module")
def published():
    return drawn(NAME).state_dict()


FORMS = {"pth": torch.save, "safetensors": safetensors.torch.save_file}


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_weights_of_a_file_are_loaded_bit_by_bit(published, tmp_path, write):
    write(published, tmp_path / "weights")
    assert unlike(built(Timm(NAME, pretrained=str(tmp_path / "weights"))).encoder, published) == []


def test_weights_are_not_looked_at_where_the_caller_forbids_it(tmp_path):
    graph = composer.chain(Timm(NAME, pretrained=str(tmp_path / "nothing.pth")), EmbeddingHead())
    plain = composer.build(composer.chain(Timm(NAME), EmbeddingHead()))
    assert unlike(composer.build(graph, pretrained=False).encoder, plain.encoder.state_dict()) == []


def without_head(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def lightning(state):
    """What Lightning saves of a task: a network among others, and what is no tensor."""
    named = {f"model.encoder.{name}": tensor for name, tensor in without_head(state).items()}
    others = {"model.decoder.convs.0.weight": torch.ones(3), "criterion.weight": torch.ones(2)}
    return {"epoch": 3, "state_dict": {**named, **others}, "hyper_parameters": {"lr": 0.1}, "optimizer_states": []}


COMMON = {
    "whole": (lambda state: state, ("fc.weight", "fc.bias")),
    "more": (lambda state: {**without_head(state), "queue": torch.ones(9)}, ("queue",)),
    "without counters": (
        lambda state: {name: x for name, x in without_head(state).items() if "num_batches" not in name},
        (),
    ),
    "averaged": (
        lambda state: {"n_averaged": torch.tensor(4), **{f"module.{n}": x for n, x in without_head(state).items()}},
        ("n_averaged",),
    ),
    "lightning": (lightning, ("model.decoder.convs.0.weight", "criterion.weight")),
}
OPTIONS = {
    "plain": {},
    "without classifier": {"options": {"num_classes": 0}},
    "other classes": {"options": {"num_classes": 7}},
    "not strict": {"options": {"pretrained_strict": False}},
    "wrapped": {"features_only": True},
}
CUTS = {"plain": OPTIONS["plain"], "wrapped": OPTIONS["wrapped"]}


@pytest.mark.parametrize(("made", "unused"), COMMON.values(), ids=COMMON)
@pytest.mark.parametrize("options", CUTS.values(), ids=CUTS)
def test_common_files_are_used_in_full(published, tmp_path, made, unused, options):
    model = built(Timm(NAME, pretrained=saved(made(published), tmp_path), out_indices=[0, 4], **options))
    counters = {name for name in model.encoder.state_dict() if name.endswith("num_batches_tracked")}
    assert set(unlike(model.encoder, published)) <= counters
    assert model.loaded_weights["encoder"].unused == unused


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_whatever_the_options_a_file_is_used_but_for_its_classifier_or_refused(published, tmp_path, options):
    state = {**published, "fc.weight": torch.ones(5, 3), "fc.bias": torch.ones(5)}
    assert unlike(built(Timm(NAME, pretrained=saved(state, tmp_path), **options)).encoder, published) == []
    assert refused(Timm(NAME, pretrained=saved({"one": torch.ones(3)}, tmp_path), **options)).got == FOREIGN


def test_pruned_levels_are_left_aside(published, tmp_path):
    model = built(Timm(NAME, pretrained=saved(published, tmp_path), out_indices=[1]))
    kept = model.encoder.state_dict()
    assert unlike(model.encoder, published) == []
    assert set(model.loaded_weights["encoder"].unused) == published.keys() - kept.keys()


OF_75 = "of the 75 tensors that the network needs"
FOREIGN = (
    f"0 {OF_75}; missing: conv1.0.weight, conv1.1.weight, conv1.1.bias, conv1.1.running_mean, conv1.1.running_var and "
    "70 more; not used: one"
)
SPOILED = {
    "behind a prefix": (
        lambda state: {f"net.{name}": x for name, x in state.items() if name != "bn1.bias"},
        f"74 {OF_75} behind the prefix net, the nearest; missing: bn1.bias",
    ),
    "quantised": (
        lambda state: {**state, "bn1.bias": torch.ones(32, dtype=torch.uint8)},
        f"74 {OF_75}; of another shape: bn1.bias [32] of integers instead of [32]",
    ),
}


@pytest.mark.parametrize(("spoiled", "said"), SPOILED.values(), ids=SPOILED)
def test_what_does_not_fill_the_network_is_refused(published, tmp_path, spoiled, said):
    file = saved(spoiled(without_head(published)), tmp_path)
    problem = refused(Timm(NAME, pretrained=file))
    assert problem.message == f"timm/{NAME} cannot load the weights {file} (got {said})."
    assert problem.fix == "give the path of a weights file that fits this network"


def two_networks(folder, published):
    return saved(
        {
            "student": {f"backbone.{name}": tensor + 1 for name, tensor in published.items()},
            "teacher": {f"backbone.{name}": tensor for name, tensor in published.items()},
            "epoch": 4,
        },
        folder,
    )


@pytest.mark.parametrize(("raw", "averaged"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_averaged_weights_are_taken_as_timm_takes_them(published, tmp_path, raw, averaged):
    other = {name: tensor + 1 for name, tensor in published.items()}
    file = saved({raw: other, averaged: published}, tmp_path)
    assert unlike(built(Timm(NAME, pretrained=file)).encoder, published) == []


def test_of_two_networks_in_a_file_one_is_chosen(published, tmp_path):
    file = two_networks(tmp_path, published)
    problem = refused(Timm(NAME, pretrained=file))
    assert problem.message == (
        f"timm/{NAME} cannot load the weights {file} (got a whole network behind each of the prefixes "
        "student.backbone, teacher.backbone)."
    )
    assert problem.fix == f"choose one: pretrained: {{file: {file}, prefix: student.backbone}}"
    model = built(Timm(NAME, pretrained=WeightsFile(file, "teacher.backbone")))
    assert unlike(model.encoder, published) == []
    report = model.loaded_weights["encoder"]
    assert (report.file, report.prefix, len(report.unused)) == (file, "teacher.backbone", len(published) + 2)


def test_no_other_prefix_is_tried_than_the_one_that_was_chosen(published, tmp_path):
    problem = refused(Timm(NAME, pretrained={"file": saved(published, tmp_path), "prefix": "student"}))
    assert problem.got == (
        "no name that begins with student.; names: conv1.0.weight, conv1.1.weight, conv1.1.bias, "
        "conv1.1.running_mean, conv1.1.running_var and 87 more"
    )


def overlaid(name, file, **options):
    """timm's own network with the weights of a file."""
    overlay = {"file": file, "custom_load": False}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options).eval()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:timm.*")  # of what timm calls where it resamples
@pytest.mark.parametrize("prefix", ["", "backbone."], ids=["plain", "prefix"])
def test_a_swin_of_another_window_is_what_timm_makes_of_it(tmp_path, prefix):
    """Its original files hold masks and indices, and other classifiers."""
    name, options = "swin_tiny_patch4_window7_224", {"embed_dim": 12, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 2, 1)}
    state = drawn(name, **options).state_dict()
    earlier = {f"layers.{index}.downsample": f"layers.{index - 1}.downsample" for index in (1, 2, 3)}
    original = {re.sub(r"layers\.\d\.downsample", lambda m: earlier[m[0]], n): x for n, x in state.items()}
    original = {n.replace("head.fc.", "head."): x for n, x in original.items()}
    original["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    original["layers.0.blocks.0.attn_mask"] = torch.zeros(64, 49, 49)
    file = saved({"model": {f"{prefix}{n}": x for n, x in original.items()}}, tmp_path)
    plain = saved({"model": original}, tmp_path, "plain.pth")
    part = Timm(name, pretrained=file, img_size=256, options={**options, "window_size": 8})
    peer = overlaid(name, plain, img_size=256, window_size=8, **options)
    assert unlike(built(part, size=(256, 256)).encoder, peer.state_dict()) == []


def original_convnext(network):
    """The names that ConvNeXt's own repository has, which timm converts."""
    names = {
        "stem.0": "downsample_layers.0.0",
        "stem.1": "downsample_layers.0.1",
        **{f"stages.{i}.downsample": f"downsample_layers.{i}" for i in (1, 2, 3)},
        "head.norm": "norm",
        "head.fc": "head",
        "conv_dw": "dwconv",
        "mlp.fc1": "pwconv1",
        "mlp.fc2": "pwconv2",
        ".blocks.": ".",
    }

    def original(name):
        for new, old in names.items():
            name = name.replace(new, old)
        return name

    return {original(name): tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.", "teacher.backbone."], ids=["plain", "module", "teacher"])
@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain network"])
def test_a_convnext_of_its_own_repository_is_converted(tmp_path, prefix, features_only):
    options = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    network = drawn("convnext_atto", conv_mlp=False, **options)
    original = original_convnext(network)
    assert checkpoint_filter_fn(dict(original), network).keys() == network.state_dict().keys()
    file = saved({"model": {f"{prefix}{name}": tensor for name, tensor in original.items()}}, tmp_path)
    part = Timm("convnext_atto", pretrained=file, features_only=features_only, options={**options, "conv_mlp": False})
    model = built(part).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        levels = network.forward_intermediates(image, intermediates_only=True)
        pairs = list(zip(model(image).output, levels, strict=True))
    assert [torch.equal(one, other) for one, other in pairs] == [True] * 4
    assert model.loaded_weights["encoder"].prefix == prefix.removesuffix(".")


@pytest.mark.parametrize("prefix", ["", "teacher.backbone."], ids=["plain", "teacher"])
def test_a_dinov2_of_its_own_repository_is_converted(tmp_path, prefix):
    """It holds a token for masks, and positions for 518 × 518 pixels, which timm resamples."""
    name, options = "vit_small_patch14_dinov2", {"depth": 2, "embed_dim": 12, "num_heads": 2}
    network = drawn(name, **options)
    original = {**network.state_dict(), "mask_token": torch.zeros(1, 12)}
    file = saved({f"{prefix}{n}": x for n, x in original.items()}, tmp_path)
    plain = saved(original, tmp_path, "plain.pth")
    model = built(Timm(name, pretrained=file, img_size=56, out_indices=[1], options=options), size=(56, 56)).eval()
    peer = overlaid(name, plain, img_size=56, **options)
    image = torch.rand(1, 3, 56, 56)
    with torch.no_grad():
        (level,) = peer.forward_intermediates(image, indices=[1], norm=False, intermediates_only=True)
        assert torch.equal(model(image).output[0], level)
    assert f"{prefix}mask_token" in model.loaded_weights["encoder"].unused


@pytest.mark.filterwarnings("ignore:warning:UserWarning")  # of kernels that are repeated
@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain"])
@pytest.mark.parametrize("given", [3, 6], ids=["of three", "of six"])
def test_a_first_layer_of_other_channels_is_what_timm_makes_of_it(tmp_path, features_only, given):
    file = saved({f"net.{n}": x for n, x in drawn(NAME, in_chans=given).state_dict().items()}, tmp_path)
    plain = saved(drawn(NAME, in_chans=given).state_dict(), tmp_path, "plain.pth")
    model = built(Timm(NAME, pretrained=file, features_only=features_only, out_indices=[0, 4]), channels=6)
    assert unlike(model.encoder, overlaid(NAME, plain, in_chans=6).state_dict()) == []


def test_a_first_layer_that_cannot_be_adapted_is_refused(tmp_path):
    file = saved(drawn(NAME, in_chans=2).state_dict(), tmp_path)
    problem = refused(Timm(NAME, pretrained=file), channels=6)
    assert problem.message == (
        f"timm/{NAME} cannot load the weights {file} (got tensors that cannot be converted: RuntimeError: Pretrained "
        "conv1.0 weight shape (16, 2, 3, 3) is inconsistent with input_size[0]=3. Correct the source pretrained_cfg "
        "before adapting to 6 channels.)."
    )


def cached(state, name, folder, monkeypatch):
    """Put weights where the client of the hub looks for those of a network of timm."""
    published = timm.get_pretrained_cfg(name)
    snapshot = folder / f"models--{published.hf_hub_id.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    safetensors.torch.save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("options", CUTS.values(), ids=CUTS)
def test_published_weights_are_used_in_full(published, tmp_path, monkeypatch, options):
    cached(published, NAME, tmp_path, monkeypatch)
    model = built(Timm(NAME, pretrained=True, out_indices=[0, 4], **options))
    assert unlike(model.encoder, published) == []
    assert model.loaded_weights == {"encoder": composer.LoadedWeights()}


UNREACHED = {"timm": Timm(NAME, pretrained=True), "smp": SmpEncoder("resnet18", pretrained=True)}


@pytest.mark.parametrize(("library", "part"), UNREACHED.items(), ids=UNREACHED)
def test_without_a_connection_there_is_one_problem(library, part, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    # The hub's own client would sleep between its tries, for most of a minute.
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    problem = refused(part)
    assert problem.message.startswith(
        f"{library}/{part.name} cannot load the weights that {library} publishes for it (got "
    )
    assert problem.fix == "check the connection, give the path of a weights file, or set pretrained: false"


def test_a_network_without_published_weights_is_one_problem():
    assert refused(Timm("seresnet18", pretrained=True)).code == "weights"


WRAPPERS = {
    "two names made one": "test_convnext",
    "a name in front": "test_vit",
    "a body with hooks": "pit_ti_224",
    "mobilenet": "mobilenetv3_small_050",
    "high resolution": "hrnet_w18_small",
}


@pytest.mark.parametrize("name", WRAPPERS.values(), ids=WRAPPERS)
def test_in_timms_wrapper_all_weights_are_those_that_timm_loads(name, tmp_path):
    file, options = saved(drawn(name).state_dict(), tmp_path), {"features_only": True, "out_indices": [0, 2]}
    peer = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": file}, **options).state_dict()
    encoder = built(Timm(name, pretrained=file, **options)).encoder
    assert unlike(encoder, peer) == []
    assert list(encoder.state_dict()) == list(peer)


@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain"])
def test_a_network_has_its_weights_once(published, tmp_path, features_only, monkeypatch):
    """timm would copy what it is told of the weights, keep it beside the network and pickle it."""
    part = Timm(NAME, features_only=features_only, pretrained=saved(published, tmp_path), out_indices=[0, 2])
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("a tensor was copied"))
    model = built(part)
    assert {type(tensor) for tensor in model.parameters()} == {torch.nn.Parameter}
    kept = [getattr(module, "pretrained_cfg", None) or {} for module in model.modules()]
    assert [config for config in kept if "state_dict" in config] == []


def test_timm_itself_loads_as_before(tmp_path):
    """composer postpones the loading of its own networks only."""
    state = drawn(NAME).state_dict()
    file = saved(state, tmp_path)
    built(Timm(NAME, pretrained=file))
    peer = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": file})
    assert unlike(peer, state) == []


def sharded(state, folder, save=safetensors.torch.save_file, whole="model.safetensors"):
    stem, _, suffix = whole.rpartition(".")
    files = {name: f"{stem}-{index % 3}.{suffix}" for index, name in enumerate(state)}
    for file in set(files.values()):
        save({name: tensor for name, tensor in state.items() if files[name] == file}, folder / file)
    index = folder / f"{whole}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return str(index)


SHARDS = {
    "safetensors-timm": (safetensors.torch.save_file, "model.safetensors", Timm, NAME),
    "pickles-smp": (torch.save, "pytorch_model.bin", SmpEncoder, "mobilenet_v2"),
}


@pytest.mark.parametrize(("save", "whole", "part", "name"), SHARDS.values(), ids=SHARDS)
def test_all_shards_of_an_index_are_read(tmp_path, save, whole, part, name):
    state = drawn(name).state_dict() if part is Timm else get_encoder(name).state_dict()
    index = sharded({f"backbone.{key}": tensor for key, tensor in state.items()}, tmp_path, save, whole)
    assert unlike(built(part(name, pretrained=index)).encoder, state) == []


NO_MAP = "has no weight_map that names the file of each weight"
INDICES = {
    "a shard that is not there": ('{"weight_map": {"a": "model-1.bin"}}', "names model-1.bin, which is not a file"),
    "a folder below": ('{"weight_map": {"a": "b/a.bin"}}', "names 'b/a.bin', which is not a file beside it"),
    "the folder above": ('{"weight_map": {"a": ".."}}', "names '..', which is not a file beside it"),
    "another system's folders": ('{"weight_map": {"a": "..\\\\a"}}', "names '..\\\\a', which is not a file beside it"),
    "no name": ('{"weight_map": {"a": ""}}', "names '', which is not a file beside it"),
    "no map": ("{}", NO_MAP),
    "no weights": ('{"weight_map": {}}', NO_MAP),
    "no text": ('{"weight_map": {"a": 1}}', NO_MAP),
    "a list": ("[]", NO_MAP),
    "no JSON": ("no", "cannot be read (Expecting value: line 1 column 1 (char 0))"),
    "of any size": (" " * (2**24 + 1), "cannot be read (it has more than 16,777,216 bytes)"),
}


@pytest.mark.parametrize(("written", "said"), INDICES.values(), ids=INDICES)
def test_an_index_that_names_no_shards_beside_it_is_one_problem(tmp_path, written, said):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(written)
    assert refused(Timm(NAME, pretrained=str(index))).got == f"ValueError: {index.name} {said}"


SMP = "resnet18"


@pytest.fixture(scope="module")
def of_smp():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return get_encoder(SMP).state_dict()


OF_SMP = {
    "prefix": (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "module", ()),
    "of a whole model": (
        lambda state: {
            "decoder.weight": torch.ones(1),
            **{f"encoder.{name}": tensor for name, tensor in {**state, "fc.weight": torch.ones(7, 3)}.items()},
        },
        "encoder",
        ("decoder.weight", "encoder.fc.weight"),
    ),
}


@pytest.mark.filterwarnings("ignore:warning:UserWarning")  # of kernels that are repeated
@pytest.mark.parametrize(("made", "prefix", "unused"), OF_SMP.values(), ids=OF_SMP)
@pytest.mark.parametrize("channels", [3, 5])
def test_files_of_smp_are_used_in_full(of_smp, tmp_path, made, prefix, unused, channels):
    model = built(SmpEncoder(SMP, pretrained=saved(made(of_smp), tmp_path)), channels=channels)
    peer = get_encoder(SMP)
    peer.load_state_dict(dict(of_smp))
    peer.set_in_channels(channels, pretrained=True)
    assert unlike(model.encoder, peer.state_dict()) == []
    report = model.loaded_weights["encoder"]
    assert (report.prefix, report.unused) == (prefix, unused)


@pytest.mark.parametrize("channels", [3, 5])
def test_what_does_not_fill_an_encoder_of_smp_is_refused(of_smp, tmp_path, channels):
    state = {f"net.{name}": tensor for name, tensor in of_smp.items() if name != "layer1.0.conv1.weight"}
    assert refused(SmpEncoder(SMP, pretrained=saved(state, tmp_path)), channels=channels).got == (
        "99 of the 100 tensors that the network needs behind the prefix net, the nearest; missing: "
        "layer1.0.conv1.weight"
    )


SPEC = """\
encoder: {timm/test_resnet: {pretrained: {file: weights.pth, prefix: teacher.backbone}}}
head: EmbeddingHead
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_says_what_was_loaded(here, published, capsys):
    two_networks(here, published)
    (here / "spec.yaml").write_text(SPEC)
    assert main(["build", "spec.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "weights: pretrained in encoder; random elsewhere, seed 0",
        (
            "encoder: weights.pth, prefix teacher.backbone; 94 tensors left aside: student.backbone.conv1.0.weight, "
            "student.backbone.conv1.1.weight, student.backbone.conv1.1.bias, student.backbone.conv1.1.running_mean, "
            "student.backbone.conv1.1.running_var and 89 more"
        ),
    ]
