"""Parse the command line and run one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from importlib import import_module

from composer import __version__
from composer.cli.terminal import UsageError, log
from composer.errors import SpecError

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes as a shell counts them: 128 and the number of the signal."""

RUN_LIBRARIES = ("rasterio", "matplotlib")
"""The libraries of the extra `run`, which only this command imports."""


SPEC_HELP = "a spec, or a file that composer.save wrote"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors of the user are printed without a traceback."""
    try:
        arguments = vars(_build_parser().parse_args(argv))
        # A command's module is imported only when the command runs: torch and numpy take seconds.
        module, _, function = arguments.pop("run").partition(":")
        return getattr(import_module(f"composer.cli.{module}"), function)(**arguments) or 0
    except SystemExit as stop:  # argparse has printed the error or the help
        return int(stop.code or 0)
    except (SpecError, UsageError) as error:
        log(str(error))
        return 1 if isinstance(error, SpecError) else 2
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
    """Build the parser of all commands. `run` names a command's function, which gets the options by keyword."""
    parser = argparse.ArgumentParser(
        prog="python -m composer",
        description="Vision models declared as data: checked, shown, built and run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"composer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add_command(name: str, run: str, about: str) -> argparse.ArgumentParser:
        description = f"{about[0].upper()}{about[1:]}."
        command = commands.add_parser(name, help=about, description=description, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    def add_model_command(name: str, run: str, about: str) -> argparse.ArgumentParser:
        command = add_command(name, run, about)
        add = command.add_argument
        add("file", metavar="FILE", help=SPEC_HELP)
        add("--seed", type=_build_integer_type(0, 2**63 - 1), default=0, metavar="N", help="of the random weights (0)")
        add("--no-pretrained", dest="pretrained", action="store_false", help="use random weights for every part")
        parameters_help = "reject a model with more parameters, such as 50M"
        add("--max-parameters", type=_parse_amount, metavar="N", help=parameters_help)
        add("--max-memory", type=_parse_amount, metavar="N", help="reject a model with more bytes, such as 2G")
        return command

    check = add_command("check", "check:check", "check specs, and print their problems or output shapes")
    check.add_argument("files", nargs="+", metavar="FILE")
    check.add_argument("--format", dest="form", choices=("text", "json"), default="text")
    edits = check.add_mutually_exclusive_group()
    edits.add_argument("--fix", action="store_true", help="apply the fixes in the files, and print them")
    edits.add_argument("--diff", action="store_true", help="print what --fix would change, and write nothing")

    show = add_command("show", "show:show", "print the features between the nodes of a graph")
    show.add_argument("file", metavar="FILE", help=SPEC_HELP)

    build = add_model_command("build", "show:build_spec", "build the model, and print its size")
    save_help = "write the weights, with the spec inside, to OUT.safetensors"
    build.add_argument("--save", dest="save_to", metavar="OUT", help=save_help)

    add = add_model_command("run", "run:run", "predict on an image, and draw the prediction").add_argument
    image_help = "a picture, a TIFF or a .npy array; with several inputs, one for each"
    add("--image", dest="images", action="append", required=True, metavar="[NAME=]IMAGE", help=image_help)
    add("-o", "--out", metavar="OUT", help="the picture to draw: .png")
    add("--weights", metavar="FILE", help="a checkpoint of this model: .safetensors, .pt, .pth, .ckpt")
    add("--bands", action="append", default=[], metavar="[NAME=]4,3,2", help="the bands to use, counted from 1")
    drawn_help = "the bands to draw as red, green, blue"
    add("--show-bands", action="append", default=[], metavar="[NAME=]4,3,2", help=drawn_help)

    add = add_command("list", "list:print_parts", "list the parts that a spec may name").add_argument
    add("kind", choices=("encoders", "necks", "decoders", "heads"))
    add("pattern", nargs="?", metavar="PATTERN", help="with stars, in quotes: 'timm/*resnet*'")

    add = add_command("matrix", "matrix:write_matrix", "check which encoders fit which decoders").add_argument
    add("--encoders", nargs="+", default=["timm/*"], metavar="PATTERN", help="with stars, in quotes ('timm/*')")
    add("--decoders", nargs="+", default=["*"], metavar="PATTERN", help="'*', 'smp/*', UNetDecoder ('*')")
    add("--format", dest="form", choices=("table", "csv", "json"), default="table")
    add("-o", "--out", metavar="OUT", help="the file to write; without it, to stdout")
    jobs, cores = _build_integer_type(1, 1024), os.cpu_count() or 1
    add("-j", "--jobs", type=jobs, default=cores, metavar="N", help="processes (one for each core)")

    programs = add_command("import", "check:import_terratorch", "convert a config of another program")
    program = programs.add_subparsers(required=True, metavar="PROGRAM")
    add = program.add_parser("terratorch", help="a config of TerraTorch", allow_abbrev=False).add_argument
    add("config", metavar="CONFIG", help="the file given to `terratorch fit --config`")
    out_help = "the spec to write: .yaml; without it, to stdout"
    add("-o", "--out", metavar="SPEC", help=out_help)
    smp = program.add_parser("smp", help="a model of segmentation_models_pytorch", allow_abbrev=False)
    smp.set_defaults(run="check:import_smp")
    smp.add_argument("folder", metavar="FOLDER", help="the folder that model.save_pretrained(FOLDER) wrote")
    smp.add_argument("-o", "--out", metavar="SPEC", help=out_help)
    smp.add_argument("--save", dest="save_to", metavar="OUT", help=save_help)

    add = add_command("explain", "list:explain_code", "explain an error code, or list all of them").add_argument
    add("code", nargs="?", metavar="CODE", help="the word in brackets of an error, such as layout")
    return parser


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
