"""Parse the command line and run one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from composer import __version__
from composer.cli.terminal import UsageError, log, print_text, read_spec, render
from composer.errors import SpecError
from composer.limits import Limits


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
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--fix", action="store_true", help="apply the fixes in the files, and print them")
    group.add_argument("--diff", action="store_true", help="print what --fix would change, and write nothing")


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

INTERRUPTED, PIPE_CLOSED = 130, 141
"""As a shell counts what a signal ended: 128 and the signal's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. What is the user's to mend is said in a line, without a traceback."""
    try:
        arguments = _build_parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except SystemExit as left:  # argparse has said what is wrong, or has printed the help that was asked for
        return int(left.code or 0)
    except SpecError as error:
        log(str(error))
        return 1
    except UsageError as error:
        log(str(error))
        return 2
    except MemoryError:
        log("there is not memory enough for this; use a smaller model or image, or close other programs.")
        return 2
    except KeyboardInterrupt:
        log("interrupted")
        return INTERRUPTED


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m composer",
        description="Vision models declared as data: checked, shown, built and run.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"composer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)
    _add_command(commands, "check", _run_check, "say what is wrong with specs, or what they give", add_check_arguments)
    _add_command(commands, "show", _run_show, "show what flows from node to node", add_spec_argument)
    _add_command(commands, "build", _run_build, "build the model, and say what it weighs", add_build_arguments)
    _add_command(commands, "run", _run_prediction, "predict on an image, and draw what comes out", add_run_arguments)
    _add_command(commands, "list", _run_list, "list the parts that a spec may name", add_list_arguments)
    _add_command(commands, "matrix", _run_matrix, "say which encoders go with which decoders", add_matrix_arguments)
    _add_command(commands, "import", _run_import, "write the config of another program as a spec", add_import_arguments)
    return parser


def _add_command(
    commands: argparse._SubParsersAction[Command],
    name: str,
    command: Callable[[argparse.Namespace], int],
    about: str,
    arguments: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    parser.arguments = arguments
    parser.set_defaults(command=command)


def _run_check(arguments: argparse.Namespace) -> int:
    if arguments.fix or arguments.diff:
        from composer.cli.rewrite import fix_file

        return max(fix_file(file, write=arguments.fix) for file in arguments.files)
    from composer.cli.check import check

    return check(arguments.files, arguments.format)


def _run_show(arguments: argparse.Namespace) -> int:
    from composer.cli.show import render_typed_graph
    from composer.inference import infer

    print_text(render(*render_typed_graph(infer(read_spec(arguments.file)))))
    return 0


def _run_build(arguments: argparse.Namespace) -> int:
    from composer.cli.build import build_spec

    build_spec(
        arguments.file,
        save_to=arguments.save,
        seed=arguments.seed,
        pretrained=arguments.pretrained,
        limits=_parse_limits(arguments),
    )
    return 0


def _run_prediction(arguments: argparse.Namespace) -> int:
    from composer.cli.run import RunRequest, run

    run(
        RunRequest(
            file=arguments.file,
            images=arguments.image,
            out=arguments.out,
            weights=arguments.weights,
            bands=arguments.bands,
            show_bands=arguments.show_bands,
            seed=arguments.seed,
            pretrained=arguments.pretrained,
            limits=_parse_limits(arguments),
        )
    )
    return 0


def _parse_limits(arguments: argparse.Namespace) -> Limits | None:
    given = Limits(parameters=arguments.max_parameters, bytes=arguments.max_memory)
    return None if given == Limits() else given


def _run_list(arguments: argparse.Namespace) -> int:
    from composer.cli.list import build_parts_table, list_parts

    kind, pattern = arguments.kind, arguments.pattern
    if kind == "encoders" and pattern is not None and pattern not in list_parts(kind)[0]:
        from composer.cli.list import list_encoder_names

        print_text("\n".join(list_encoder_names(pattern)))
        return 0
    print_text(render(build_parts_table(kind, pattern)))
    if kind == "encoders" and pattern is None:
        print_text("python -m composer list encoders 'timm/*resnet*' lists names.")
    return 0


def _run_matrix(arguments: argparse.Namespace) -> int:
    from composer.cli.matrix import write_matrix

    write_matrix(arguments.encoders, arguments.decoders, arguments.format, arguments.out, arguments.jobs)
    return 0


def _run_import(arguments: argparse.Namespace) -> int:
    from composer.cli.rewrite import import_terratorch

    import_terratorch(arguments.file, arguments.out)
    return 0
