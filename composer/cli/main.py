"""Parse the command line and run one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from composer import __version__
from composer.cli.terminal import UsageError, log
from composer.errors import SpecError

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes as a shell counts them: 128 and the number of the signal."""

RUN_LIBRARIES = ("rasterio", "matplotlib")
"""The libraries of the extra `run`, which only this command imports."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors of the user are printed without a traceback."""
    try:
        arguments = vars(_build_parser().parse_args(argv))
        # A command's module is imported only when the command runs: torch and numpy take seconds.
        module, _, function = arguments.pop("run").partition(":")
        return getattr(import_module(f"composer.cli.{module}"), function)(**arguments) or 0
    except SystemExit as stop:  # argparse has printed the error or the help
        return int(stop.code or 0)
    except SpecError as error:
        log(str(error))
        return 1
    except UsageError as error:
        log(str(error))
        return 2
    except MemoryError:
        log("out of memory; use a smaller model or image, or close other programs.")
        return 2
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in RUN_LIBRARIES:
            raise
        log(f"run: {error}; install what it needs: pip install 'composer-vision[run]'")
        return 2
    except KeyboardInterrupt:
        log("interrupted")
        return INTERRUPTED


def _build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands. `run` names a command's function, which gets the arguments by keyword."""
    parser = argparse.ArgumentParser(
        prog="python -m composer",
        description="Vision models declared as data: checked, shown, built and run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"composer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    spec, model = _build_spec_options(), _build_model_options()

    check = _add_command(commands, "check", "check:check", "check specs, and print their problems or output shapes")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--format", dest="form", choices=("text", "json"), default="text")
    edits = check.add_mutually_exclusive_group()
    edits.add_argument("--fix", action="store_true", help="apply the fixes in the files, and print them")
    edits.add_argument("--diff", action="store_true", help="print what --fix would change, and write nothing")

    _add_command(commands, "show", "show:show", "print the features between the nodes of a graph", spec)

    build = _add_command(commands, "build", "build:build_spec", "build the model, and print its size", spec, model)
    build.add_argument(
        "--save", dest="save_to", metavar="OUT", help="write the weights, with the spec inside, to OUT.safetensors"
    )

    run = _add_command(commands, "run", "run:run", "predict on an image, and draw the prediction", spec, model)
    run.add_argument(
        "--image",
        dest="images",
        action="append",
        required=True,
        metavar="[NAME=]IMAGE",
        help="a picture, a TIFF or a .npy array; with several inputs, one for each",
    )
    run.add_argument("-o", "--out", metavar="OUT", help="the picture to draw: .png")
    run.add_argument("--weights", metavar="FILE", help="a checkpoint of this model: .safetensors, .pt, .pth, .ckpt")
    bands: dict[str, Any] = {"action": "append", "default": [], "metavar": "[NAME=]4,3,2"}
    run.add_argument("--bands", **bands, help="the bands to use as input, counted from 1")
    run.add_argument("--show-bands", **bands, help="the bands to draw as red, green, blue")

    parts = _add_command(commands, "list", "list:print_parts", "list the parts that a spec may name")
    parts.add_argument("kind", choices=("encoders", "necks", "decoders", "heads"))
    parts.add_argument("pattern", nargs="?", metavar="PATTERN", help="with stars, in quotes: 'timm/*resnet*'")

    matrix = _add_command(commands, "matrix", "matrix:write_matrix", "check which encoders fit which decoders")
    pattern: dict[str, Any] = {"nargs": "+", "metavar": "PATTERN"}
    matrix.add_argument("--encoders", **pattern, default=["timm/*"], help="with stars, in quotes ('timm/*')")
    matrix.add_argument("--decoders", **pattern, default=["*"], help="'*', 'smp/*', UNetDecoder ('*')")
    matrix.add_argument("--format", dest="form", choices=("table", "csv", "json"), default="table")
    matrix.add_argument("-o", "--out", metavar="OUT", help="the file to write; without it, to stdout")
    jobs = _build_integer_type(1, 1024)
    matrix.add_argument(
        "-j", "--jobs", type=jobs, default=os.cpu_count() or 1, metavar="N", help="processes (one for each core)"
    )

    program = _add_command(commands, "import", "check:import_terratorch", "convert a config of another program")
    terratorch = program.add_subparsers(required=True, metavar="PROGRAM").add_parser(
        "terratorch", help="a config of TerraTorch", allow_abbrev=False
    )
    terratorch.add_argument("config", metavar="CONFIG", help="the file given to `terratorch fit --config`")
    terratorch.add_argument("-o", "--out", metavar="SPEC", help="the spec to write: .yaml; without it, to stdout")

    explain = _add_command(commands, "explain", "codes:explain_code", "explain an error code, or list all of them")
    explain.add_argument("code", nargs="?", metavar="CODE", help="the word in brackets of an error, such as layout")
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: str,
    about: str,
    *options: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    description = f"{about[0].upper()}{about[1:]}."
    parser = commands.add_parser(name, help=about, description=description, parents=options, allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def _build_spec_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("file", metavar="FILE", help="a spec, or a file that composer.save wrote")
    return options


def _build_model_options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--seed", type=_build_integer_type(0, 2**63 - 1), default=0, metavar="N", help="of the random weights (0)"
    )
    options.add_argument(
        "--no-pretrained", dest="pretrained", action="store_false", help="use random weights for every part"
    )
    options.add_argument(
        "--max-parameters", type=_parse_amount, metavar="N", help="reject a model with more parameters, such as 50M"
    )
    options.add_argument(
        "--max-memory", type=_parse_amount, metavar="N", help="reject a model with more bytes, such as 2G"
    )
    return options


def _build_integer_type(low: int, high: int) -> Callable[[str], int]:
    def parse_integer(text: str) -> int:
        if not text.isdecimal() or len(text) > 20 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high} (got {text!r})")
        return int(text)

    return parse_integer


def _parse_amount(text: str) -> int:
    """Convert `50M` to 50,000,000; the suffixes are k, M, G and T."""
    factors = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    digits = text[:-1] if text[-1:] in factors else text
    if not digits.isdecimal() or len(digits) > 18:
        raise argparse.ArgumentTypeError(f"expected a number such as 50M (got {text!r})")
    return int(digits) * factors.get(text[-1:], 1)
