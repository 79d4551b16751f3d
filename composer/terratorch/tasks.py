"""TerraTorch's tasks: which of its models each trains, and with what arguments. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.problem import suggest

TASKS = {
    "SemanticSegmentationTask": "segmentation",
    "PixelwiseRegressionTask": "regression",
    "ClassificationTask": "classification",
    "MultiLabelClassificationTask": "classification",
    "ScalarRegressionTask": "scalar_regression",
    "EmbeddingGenerationTask": "embedding_generation",
}
"""The tasks of TerraTorch 1.2.11 whose models EncoderDecoderFactory builds, and what each calls its task."""

EMBEDDING_TASK_CLASS = "EmbeddingGenerationTask"

UNSUPPORTED_TASKS = {
    "ObjectDetectionTask": "it trains detectors, which composer does not describe",
    "ReconstructionTask": "it trains masked autoencoders, which composer does not describe",
    "InferenceTask": "it runs whole models that EncoderDecoderFactory does not build",
    "WxCTask": "it trains a whole model of its own",
    "WxCDownscalingTask": "it trains a whole model of its own",
    "ECCCTask": "it trains a whole model of its own",
}
"""Its other tasks, each with the reason why there is no model of theirs to import."""

_SHARED_ARGUMENTS = (
    "model_args model_factory model loss aux_heads aux_loss ignore_index lr optimizer optimizer_hparams scheduler "
    "scheduler_hparams freeze_backbone freeze_decoder freeze_head plot_on_val test_dataloaders_names lr_overrides "
    "path_to_record_metrics"
)
_TILED_ARGUMENTS = "tiled_inference_parameters tiled_inference_on_testing tiled_inference_on_validation"
_CLASSIFICATION_ARGUMENTS = f"{_SHARED_ARGUMENTS} class_weights custom_loss custom_loss_kwargs class_names"

_TASK_ARGUMENTS = {
    "SemanticSegmentationTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} class_weights class_names output_on_inference "
    "output_most_probable",
    "PixelwiseRegressionTask": f"{_SHARED_ARGUMENTS} {_TILED_ARGUMENTS} var_weights custom_loss custom_loss_kwargs",
    "ClassificationTask": _CLASSIFICATION_ARGUMENTS,
    "MultiLabelClassificationTask": _CLASSIFICATION_ARGUMENTS,
    "ScalarRegressionTask": f"{_SHARED_ARGUMENTS} var_weights num_outputs var_names",
    EMBEDDING_TASK_CLASS: "model_args output_dir embed_file_key layers output_format has_cls embedding_pooling num_workers "
    "pixel_size freeze_backbone",
}
TASK_ARGUMENTS: dict[str, tuple[str, ...]] = {task: tuple(names.split()) for task, names in _TASK_ARGUMENTS.items()}
"""What each task takes: its `init_args`."""

MODEL_ARGUMENTS = {
    task: ("model_args", "layers", "output_format", "has_cls", "embedding_pooling")
    if task == EMBEDDING_TASK_CLASS
    else ("model_args", "model_factory", "model", "aux_heads")
    for task in TASKS
}
"""The arguments of each task that the form of its model depends on; all others are of training."""

FREEZE_ARGUMENTS = {"freeze_backbone": "encoder", "freeze_decoder": "decoder", "freeze_head": "head"}
"""The arguments that freeze, each with the node of a composer graph that it stands for."""


def build_embedding_necks(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The necks that EmbeddingGenerationTask puts into a model for which `model_args` names none.

    `given` are its `init_args`. Raises ValueError for values that it does not take.
    """
    arguments = given.get("model_args") or {}
    layers = given.get("layers")
    layers = [-1] if layers is None else layers
    pooling = given.get("embedding_pooling")
    # Compared as it is written: TerraTorch lowers it for all but this.
    form = given.get("output_format", "tiff")
    if not isinstance(form, str) or form.lower() not in OUTPUT_FORMATS:
        raise ValueError(f"output_format is one of {', '.join(OUTPUT_FORMATS)} (got {form!r})")
    has_cls = given.get("has_cls", False)
    keeps_time = bool(arguments.get("backbone_use_temporal", False)) and (
        arguments.get("backbone_temporal_pooling", "mean") == "keep"
    )
    frames = {"temporal_inputs": True} if keeps_time else {}
    if pooling in (None, "None", "keep"):
        necks: list[dict[str, Any]] = [{"name": "SelectIndices", "indices": layers}]
        if form == "tiff":
            necks.append({"name": "ReshapeTokensToImage", "remove_cls_token": has_cls, **frames})
        return necks
    if pooling in POOLINGS:
        return [{"name": "AggregateTokens", "pooling": pooling, "indices": layers, "drop_cls": has_cls, **frames}]
    raise ValueError(f"embedding_pooling is keep, {', '.join(POOLINGS)} or null (got {pooling!r})")


OUTPUT_FORMATS = ("tiff", "parquet", "parquet_joint", "neuco_csv")
POOLINGS = ("mean", "max", "min", "cls")


def match_class_path(path: str, known: Mapping[str, Any]) -> str | None:
    """The class that a `class_path` names, alone or with a module of TerraTorch; None for anything else."""
    home, _, name = path.rpartition(".")
    return name if name in known and (not home or home.split(".")[0] == "terratorch") else None


def explain_unsupported_task(path: str) -> tuple[str, str | None]:
    """Why a `class_path` is not the task of a model that can be imported, and what to write instead."""
    other = match_class_path(path, UNSUPPORTED_TASKS)
    if other is not None:
        return f"{other} is not imported: {UNSUPPORTED_TASKS[other]}.", None
    return f"{path} is no task of TerraTorch's.", suggest(path.rpartition(".")[2], TASKS)
