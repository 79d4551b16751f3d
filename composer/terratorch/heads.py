"""TerraTorch's heads, by task, in terms of composer's. No torch here."""

from __future__ import annotations

from typing import Any

from composer.parts import ClassificationHead, EmbeddingHead, Head, RegressionHead, ScalarHead, SegmentationHead
from composer.parts.fields import FINAL_ACTIVATIONS
from composer.terratorch.arguments import Arguments, Diagnostics, construct_part

HEADS: dict[str, type[Head]] = {
    "segmentation": SegmentationHead,
    "regression": RegressionHead,
    "classification": ClassificationHead,
    "scalar_regression": ScalarHead,
    "embedding_generation": EmbeddingHead,
}
"""The head of each task."""

PIXEL_WISE = ("segmentation", "regression")
EMBEDDING_TASK = "embedding_generation"


def build_head(task: str, arguments: Arguments, ledger: Diagnostics) -> Head | None:
    """The head that TerraTorch would really have used for these arguments; None where there is none."""
    if task == "scalar_regression" and "num_outputs" not in arguments:
        arguments = arguments.rename(num_classes="num_outputs")
    needed = {"segmentation": "num_classes", "classification": "num_classes", "scalar_regression": "num_outputs"}
    if task in needed and needed[task] not in arguments:
        _report_missing_outputs(task, needed[task], arguments, ledger)
        return None
    if task == "regression":
        arguments = _prepare_regression(arguments, ledger)
    return construct_part(HEADS[task], arguments, ledger)


def _report_missing_outputs(task: str, name: str, arguments: Arguments, ledger: Diagnostics) -> None:
    """Say that a head is not told how much it predicts, or is told so under the name that other tasks have for it."""
    other = "num_outputs"
    if other in arguments:
        ledger.add_problem(
            arguments.path(other), f"{task} has no outputs but classes.", f"{name}: {arguments.get(other)}", "unused"
        )
    else:
        ledger.add_problem(name, f"{task} needs {name}.", "say how many are to be predicted", code="missing")


def _prepare_regression(arguments: Arguments, ledger: Diagnostics) -> Arguments:
    if "num_classes" in arguments and "num_outputs" not in arguments:
        ledger.add_problem(
            arguments.path("num_classes"),
            "regression has no classes.",
            f"num_outputs: {arguments.get('num_classes')}",
            code="unused",
        )
        arguments = arguments.without("num_classes")
    if arguments.get("batch_norm") is False:
        ledger.add_note(
            arguments.path("batch_norm"),
            "TerraTorch never reads batch_norm, so the head is built with batch norm.",
            "RegressionHead: {batch_norm: false} does what it says",
        )
        arguments = arguments.without("batch_norm")
    if arguments.get("final_act") is None:
        return arguments.without("final_act")
    return arguments.replace(final_act=_parse_activation(arguments, ledger))


def _parse_activation(arguments: Arguments, ledger: Diagnostics) -> str | None:
    """The name of an activation that is given as a path, `torch.nn.Sigmoid`, or as a module. Nothing is imported."""
    given: Any = arguments.get("final_act")
    path = given if isinstance(given, str) else f"{type(given).__module__}.{type(given).__name__}"
    home, _, name = path.rpartition(".")
    ours = home == "torch.nn" or home.startswith("torch.nn.modules.")
    # A module that was made with arguments of its own shows them.
    plain = isinstance(given, str) or repr(given) in (
        f"{name}()",
        f"{name}(dim=None)",
        f"{name}(dim=1)",
        _DEFAULT_REPRS.get(name),
    )
    if ours and plain and name in FINAL_ACTIVATIONS:
        return name
    message = f"final_act is torch.nn.X, with X one of {', '.join(FINAL_ACTIVATIONS)} (got {given!r}); "
    ledger.add_problem(
        arguments.path("final_act"),
        f"{message}nothing is imported or called by its name.",
        "choose one of these, or apply the function to the model's output",
    )
    return None


_DEFAULT_REPRS = {
    "GELU": "GELU(approximate='none')",
    "LeakyReLU": "LeakyReLU(negative_slope=0.01)",
    "ELU": "ELU(alpha=1.0)",
    "Softplus": "Softplus(beta=1.0, threshold=20.0)",
}
"""How modules with arguments look that were made without any."""
