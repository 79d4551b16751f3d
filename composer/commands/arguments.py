"""What each command takes: its options, their numbers, and what they say of themselves. No torch here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any


class Command(argparse.ArgumentParser):
    """The parser of one command, which is told its arguments when it is the one that is called."""

    arguments: Callable[[argparse.ArgumentParser], None]

    def parse_known_args(self, *given: Any, **options: Any) -> Any:
        """As any parser does, with the arguments added before."""
        self.arguments(self)
        return super().parse_known_args(*given, **options)


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `check`."""
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def add_spec_argument(parser: argparse.ArgumentParser) -> None:
    """Of a command that takes a spec and nothing else."""
    parser.add_argument("file", metavar="FILE", help="a spec, or a file that composer.save wrote")


def _add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_parse_seed, default=0, metavar="N", help="of the random weights (0)")
    parser.add_argument(
        "--no-pretrained",
        dest="pretrained",
        action="store_false",
        help="random weights also where the spec asks for published ones",
    )


def _add_limits_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-parameters",
        type=_parse_amount,
        metavar="N",
        help="refuse a model of more parameters than this, such as 50M",
    )
    parser.add_argument(
        "--max-memory", type=_parse_amount, metavar="N", help="refuse a model of more bytes than this, such as 2G"
    )


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `build`."""
    add_spec_argument(parser)
    _add_weights_arguments(parser)
    _add_limits_arguments(parser)
    parser.add_argument("--save", metavar="OUT", help="write the weights, with the spec inside, to OUT.safetensors")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add_spec_argument(parser)
    parser.add_argument(
        "--image",
        action="append",
        required=True,
        metavar="[NAME=]IMAGE",
        help="a picture, a .npy array or a TIFF; with several inputs, one for each",
    )
    parser.add_argument("-o", "--out", metavar="OUT", help="the picture to draw: .png or .jpg")
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint of this model: .safetensors, .pt, .pth, .ckpt")
    parser.add_argument(
        "--bands", action="append", default=[], metavar="[NAME=]4,3,2", help="the bands to feed, counted from 1"
    )
    parser.add_argument(
        "--show-bands",
        action="append",
        default=[],
        metavar="[NAME=]4,3,2",
        help="the bands to draw as red, green, blue",
    )
    _add_weights_arguments(parser)
    _add_limits_arguments(parser)


def add_autofix_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `fit`."""
    add_spec_argument(parser)
    parser.add_argument("--write", action="store_true", help="write it into FILE; without this, to stdout")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `list`."""
    parser.add_argument("kind", choices=("encoders", "necks", "decoders", "heads"))
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="with stars, in quotes: 'timm/*resnet*'")


def add_matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `matrix`."""
    parser.add_argument(
        "--encoders", nargs="+", default=["timm/*"], metavar="PATTERN", help="with stars, in quotes ('timm/*')"
    )
    parser.add_argument(
        "--decoders", nargs="+", default=["*"], metavar="PATTERN", help="'*', 'smp/*', UNetDecoder ('*')"
    )
    parser.add_argument("--format", choices=("table", "csv", "json", "png"), default="table")
    parser.add_argument("-o", "--out", metavar="OUT", help="the file to write; without it, to stdout")
    parser.add_argument(
        "-j", "--jobs", type=_parse_jobs, default=os.cpu_count() or 1, metavar="N", help="processes (one for each core)"
    )


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `import`."""
    parser.add_argument("program", choices=("terratorch",), help="whose config it is")
    parser.add_argument("file", metavar="CONFIG", help="what terratorch fit --config takes")
    parser.add_argument("-o", "--out", metavar="SPEC", help="the spec to write: .yaml; without it, to stdout")


def _parse_seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(text)
    return number


def _parse_amount(text: str) -> int:
    """`50M` is fifty million: k, M, G and T are a thousand times as much each as what comes before."""
    digits = text.rstrip("".join(_FACTORS_BY_SUFFIX))
    times = _FACTORS_BY_SUFFIX.get(text[len(digits) :])
    if times is None or not digits.isdecimal() or len(digits) > 18:
        raise ValueError(text)
    return int(digits) * times


_FACTORS_BY_SUFFIX = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _parse_jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise ValueError(text)
    return number


_parse_amount.__name__ = "number, such as 50M,"
_parse_jobs.__name__ = "number of processes"
_parse_seed.__name__ = "whole number"  # as argparse names it: invalid whole number value: '-1'
