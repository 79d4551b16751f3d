"""What an imported config is, beside what TerraTorch itself makes of the same file."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import terratorch.tasks
import torch
from jsonargparse._loaders_dumpers import yaml_load
from terratorch.models.model import AuxiliaryHead

import composer
from composer.terratorch.configs import EMBEDDING_TASK_CLASS, build_embedding_necks, read_config, reads_config

CONFIGS = Path(__file__).parents[1] / "terratorch_configs"

STEMS = (
    *("chesapeake.timm", "eurosat.timm", "galileo_config.timm", "linear_decoder.timm", "multi_temporal_crop.timm"),
    *("prithvi_vit_300.timm", "satlas_uper.timm", "scalar_regression.timm", "sen1floods11_vit.timm"),
    *("sen1floods11_vit_smp.timm", "terramind_regression.timm", "terramind_xview2.timm"),
    *("timm_resnet18", "timm_resnet34_rgb"),
)


def task_of(text, tmp_path=None):
    """The task that TerraTorch makes of a config, as Lightning does, without published weights."""
    model = yaml_load(text)["model"]
    given = model["init_args"]
    args = given["model_args"]
    (args.get("backbone_kwargs") or args).pop("pretrained", None)
    args.pop("backbone_pretrained", None)
    heads = [AuxiliaryHead(**head.get("init_args", head)) for head in given.pop("aux_heads", [])]
    if heads:
        given["aux_heads"] = heads
    if tmp_path is not None:
        given["output_dir"] = str(tmp_path)
    task = getattr(terratorch.tasks, model["class_path"].strip().rpartition(".")[2])
    # One config is for a later version, whose tasks take more.
    return task(**{name: value for name, value in given.items() if name in inspect.signature(task.__init__).parameters})


def shapes(model):
    return sorted(tuple(parameter.shape) for parameter in model.parameters())


@pytest.mark.parametrize("stem", STEMS)
def test_an_imported_config_has_the_weights_and_the_outputs_of_terratorchs_model(stem):
    text = (CONFIGS / f"{stem}.yaml").read_text()
    theirs = task_of(text).model.eval()
    graph = read_config(CONFIGS / f"{stem}.yaml").graph
    ours = composer.build(graph, pretrained=False).eval()
    (image,) = (image for _, image in graph.inputs)
    frames = () if image.frames is None else (image.frames,)
    # TerraTorch takes no other size than this one.
    size = graph.nodes[0].part.img_size or (224, 224)
    x = torch.zeros(2, image.channels, *frames, *size)
    with torch.no_grad():
        here, there = ours(x), theirs(x)

    assert shapes(ours) == shapes(theirs)
    # A single channel loses its axis there.
    assert here.output.squeeze(1).shape == there.output.squeeze(1).shape
    assert {name: out.shape for name, out in (here.auxiliary_heads or {}).items()} == {
        name: out.shape for name, out in (there.auxiliary_heads or {}).items()
    }


@pytest.mark.parametrize("form", ["tiff", "TIFF", "parquet"])
@pytest.mark.parametrize("pooling", ["null", "None", "keep", "mean", "max", "min", "cls"])
@pytest.mark.parametrize("rest", ["", ", backbone_use_temporal: true, backbone_temporal_pooling: keep"])
def test_a_task_of_embeddings_adds_the_same_necks(form, pooling, rest, tmp_path):
    text = f"""
model:
  class_path: {EMBEDDING_TASK_CLASS}
  init_args:
    model_args: {{backbone: resnet10t{rest}}}
    layers: [1, -1]
    output_format: {form}
    embedding_pooling: {pooling}
    has_cls: {str(pooling != "cls").lower()}
"""
    given = yaml_load(text)["model"]["init_args"]
    assert build_embedding_necks(given) == task_of(text, tmp_path).model_args["necks"]


@pytest.mark.parametrize("stem", ["embeddings.timm", "pooled_embeddings.timm"])
def test_embeddings_have_the_same_shapes(stem, tmp_path):
    text = (CONFIGS / f"{stem}.yaml").read_text()
    theirs = task_of(text, tmp_path).model.eval()
    ours = composer.build(reads_config(text).graph, pretrained=False).eval()
    x = torch.zeros(2, 3, 224, 224)
    with torch.no_grad():
        here, there = ours(x).output, theirs(x)

    assert [tuple(feature.shape) for feature in here] == [tuple(feature.shape) for feature in there]


@pytest.mark.parametrize(
    "word", ["yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", "y", "n"]
)
def test_words_mean_what_they_mean_to_its_reader(word):
    text = f"""
model:
  class_path: SemanticSegmentationTask
  init_args:
    model_factory: EncoderDecoderFactory
    model_args: {{backbone: resnet10t, decoder: FCNDecoder, num_classes: 2, decoder_in_index: {word}}}
"""
    theirs = yaml_load(f"a: {word}")["a"]
    with pytest.raises(composer.SpecError, match=f"got {theirs!r}"):
        reads_config(text)
