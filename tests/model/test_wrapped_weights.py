"""Weights in timm's own wrapper: named as the wrapper names them, all of them there, or refused."""

from __future__ import annotations

import pytest
import safetensors.torch
import timm
import torch

import composer
from composer.errors import SpecError
from composer.parts.decoders import IdentityDecoder
from composer.parts.encoders import Timm

WRAPPERS = {
    "names of the plain network": "test_resnet",
    "two names made one": "test_convnext",
    "a name in front": "test_vit",
    "a body with hooks": "pit_ti_224",
    "efficientnet": "test_efficientnet",
    "mobilenet": "mobilenetv3_small_050",
    "high resolution": "hrnet_w18_small",
}


def published(name, folder, without="nothing"):
    """A file of a network's weights, but for the layers that have `without` in their name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = timm.create_model(name).state_dict()
    file = str(folder / f"{name}.safetensors")
    safetensors.torch.save_file({layer: x for layer, x in state.items() if without not in layer}, file)
    return file


def built(name, file):
    part = Timm(name, features_only=True, pretrained=file, out_indices=[0, 2])
    return composer.build(composer.chain(part, IdentityDecoder())).encoder


def theirs(name, file):
    overlay = {"file": file}
    return timm.create_model(
        name, features_only=True, out_indices=[0, 2], pretrained=True, pretrained_cfg_overlay=overlay
    )


def unlike(one, other):
    assert list(one) == list(other)
    return [name for name, x in one.items() if not torch.equal(x, other[name])]


@pytest.mark.parametrize("name", WRAPPERS.values(), ids=WRAPPERS)
def test_all_weights_are_those_that_timm_loads(name, tmp_path):
    file = published(name, tmp_path)
    assert unlike(built(name, file).state_dict(), theirs(name, file).state_dict()) == []


def test_weights_that_are_not_there_are_one_problem(tmp_path):
    file = published("test_resnet", tmp_path, without="layer2")

    with pytest.raises(SpecError) as caught:
        built("test_resnet", file)

    (problem,) = caught.value.problems
    assert problem.message == (
        f"timm/test_resnet cannot load the weights {file} (got 25 of the 40 tensors that the network needs; missing: "
        "layer2.0.conv1.weight, layer2.0.bn1.weight, layer2.0.bn1.bias, layer2.0.bn1.running_mean, "
        "layer2.0.bn1.running_var and 10 more; not used: fc.bias, fc.weight, layer3.0.bn1.bias, "
        "layer3.0.bn1.running_mean, layer3.0.bn1.running_var and 39 more)."
    )
    assert (problem.place.path, problem.fix) == (
        "encoder.pretrained",
        "give the path of a weights file that fits this network",
    )


def test_timm_itself_would_leave_them_random(tmp_path):
    """What the test above is about."""
    whole, cut = (tmp_path / way for way in ("whole", "cut"))
    whole.mkdir()
    cut.mkdir()
    one = theirs("test_resnet", published("test_resnet", whole)).state_dict()
    other = theirs("test_resnet", published("test_resnet", cut, without="layer2")).state_dict()
    assert {name.split(".")[0] for name in unlike(one, other)} == {"layer2"}


@pytest.mark.parametrize("features_only", [True, False], ids=["wrapped", "plain"])
def test_the_tensors_of_a_file_are_not_copied(features_only, tmp_path, monkeypatch):
    """timm copies what it is told of the weights, which would then be held twice beside the network."""
    file = published("test_resnet", tmp_path)
    part = Timm("test_resnet", features_only=features_only, pretrained=file, out_indices=[0, 2])
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("a tensor was copied"))
    encoder = composer.build(composer.chain(part, IdentityDecoder())).encoder
    assert {type(tensor) for tensor in encoder.state_dict().values()} == {torch.Tensor}
    assert {type(tensor) for tensor in encoder.parameters()} == {torch.nn.Parameter}
