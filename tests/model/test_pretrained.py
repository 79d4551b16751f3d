"""Published weights: from a file of one's own, and what is said where there are none to be had."""

import socket

import pytest
import safetensors.torch
import timm
import torch

import composer
from composer.errors import SpecError
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm

NAME = "test_resnet"


def built(file, **options):
    return composer.build(composer.chain(Timm(NAME, pretrained=file), IdentityDecoder()), **options)


@pytest.fixture(scope="module")
def published():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return timm.create_model(NAME).state_dict()


def write_pth(state, folder):
    torch.save(state, folder / "weights.pth")
    return str(folder / "weights.pth")


def write_safetensors(state, folder):
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


def unlike(state, published):
    return [name for name, x in state.items() if not torch.equal(x, published[name])]


@pytest.mark.parametrize(
    "written", [pytest.param(write_pth, id="pth"), pytest.param(write_safetensors, id="safetensors")]
)
def test_weights_of_a_file_are_loaded_bit_by_bit(published, written, tmp_path):
    state = built(written(published, tmp_path)).encoder.state_dict()
    assert len(state) > 50
    assert unlike(state, published) == []


def test_weights_are_not_loaded_where_the_caller_forbids_it(published, tmp_path):
    state = built(write_pth(published, tmp_path), pretrained=False).encoder.state_dict()
    plain = composer.build(composer.chain(Timm(NAME), IdentityDecoder())).encoder.state_dict()
    assert unlike(state, plain) == []


def test_a_file_that_is_not_looked_at_need_not_exist(tmp_path):
    assert built(str(tmp_path / "nothing.pth"), pretrained=False).encoder.network is not None


class Calls:
    """Unpickled, this would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


def without_a_layer(folder, published):
    return write_pth({name: x for name, x in published.items() if "layer2" not in name}, folder)


def of_another_network(folder, published):
    return write_pth(timm.create_model("test_convnext").state_dict(), folder)


def truncated(folder, published):
    file = write_safetensors(published, folder)
    (folder / "short.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-100])
    return file.replace("weights", "short")


def junk(folder, published):
    (folder / "junk.pth").write_bytes(b"junk" * 100)
    return str(folder / "junk.pth")


def empty(folder, published):
    (folder / "empty.pth").touch()
    return str(folder / "empty.pth")


def missing(folder, published):
    return str(folder / "missing.pth")


def code(folder, published):
    torch.save({"weight": Calls(str(folder / "written"))}, folder / "code.pth")
    return str(folder / "code.pth")


@pytest.mark.parametrize(
    "spoiled", [without_a_layer, of_another_network, truncated, junk, empty, missing, code], ids=lambda f: f.__name__
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # what torch says of a pickle is for its caller, not for ours
def test_a_file_that_does_not_fit_is_one_problem(spoiled, published, tmp_path):
    file = spoiled(tmp_path, published)
    with pytest.raises(SpecError) as raised:
        built(file)
    (problem,) = raised.value.problems
    # What comes after "got" is the reason in timm's or torch's own words.
    assert problem.message.startswith(f"timm/{NAME} cannot load the weights {file} (got ")
    assert (problem.code, problem.place.path) == ("weights", "encoder.pretrained")
    assert problem.fix == "give the path of a weights file that fits this network"


def test_nothing_in_a_file_is_run(published, tmp_path):
    with pytest.raises(SpecError):
        built(code(tmp_path, published))
    assert not (tmp_path / "written").exists()


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
    with pytest.raises(SpecError) as raised:
        built(True)
    (problem,) = raised.value.problems
    assert problem.message.startswith(f"timm/{NAME} cannot load the weights that timm publishes for it (got ")
    assert (problem.code, problem.place.path) == ("weights", "encoder.pretrained")
    assert problem.fix == "check the connection, give the path of a weights file, or set pretrained: false"
    # The hub's own client would have slept between its tries, for most of a minute.
    assert offline == []


def test_a_network_without_published_weights_is_one_problem():
    graph = composer.chain(Timm("seresnet18", pretrained=True), IdentityDecoder())
    with pytest.raises(SpecError) as raised:
        composer.build(graph)
    assert [problem.code for problem in raised.value.problems] == ["weights"]
