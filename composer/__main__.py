"""`python -m composer`: the arguments, the exit codes, and nothing else. No torch here.

Exit codes: 0, all is well; 1, a spec has problems; 2, the arguments or the files are at fault; 130, interrupted.
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":
    # While Python reads its modules there is nothing to tidy up, and nobody yet to say in a line that it was stopped.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from composer.commands.ceiling import keep_to_memory
from composer.commands.interrupts import interrupts_held
from composer.commands.terminal import UsageError, graph_in, note, rendered, say
from composer.limits import Limits
from composer.problem import SpecError

INTERRUPTED, PIPE_CLOSED = 130, 141
"""As a shell counts what a signal ended: 128 and the signal's number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. What is the user's to mend is said in a line, without a traceback."""
    try:
        arguments = _parser().parse_args(argv)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except SystemExit as left:  # argparse has said what is wrong, or has printed the help that was asked for
        return int(left.code or 0)
    except SpecError as error:
        note(str(error))
        return 1
    except UsageError as error:
        note(str(error))
        return 2
    except MemoryError:
        note("there is not memory enough for this; use a smaller model or image, or close other programs.")
        return 2
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m composer",
        description="Vision models declared as data: checked, shown, built and run.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    _add(commands, "check", _check, "say what is wrong with specs, or what they give", _check_arguments)
    _add(commands, "show", _show, "show what flows from node to node", _one_spec)
    _add(commands, "build", _build, "build the model, and say what it weighs", _build_arguments)
    _add(commands, "run", _run, "predict on an image, and draw what comes out", _run_arguments)
    _add(commands, "fit", _fit, "put in the necks that make a spec lawful", _fit_arguments)
    _add(commands, "list", _list, "list the parts that a spec may name", _list_arguments)
    _add(commands, "matrix", _matrix, "say which encoders go with which decoders", _matrix_arguments)
    _add(commands, "import", _import, "write the config of another program as a spec", _import_arguments)
    return parser


class _Command(argparse.ArgumentParser):
    """The parser of one command, which is told its arguments when it is the one that is called."""

    arguments: Callable[[argparse.ArgumentParser], None]

    def parse_known_args(self, *given: Any, **options: Any) -> Any:
        self.arguments(self)
        return super().parse_known_args(*given, **options)


def _add(
    commands: argparse._SubParsersAction[_Command],
    name: str,
    command: Callable[[argparse.Namespace], int],
    about: str,
    arguments: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    parser.arguments = arguments
    parser.set_defaults(command=command)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _one_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a spec")


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the random weights (0)")
    parser.add_argument(
        "--no-pretrained",
        dest="pretrained",
        action="store_false",
        help="random weights also where the spec asks for published ones",
    )


def _limits_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-parameters", type=_amount, metavar="N", help="refuse a model of more parameters than this, such as 50M"
    )
    parser.add_argument(
        "--max-memory", type=_amount, metavar="N", help="refuse a model of more bytes than this, such as 2G"
    )


def _build_arguments(parser: argparse.ArgumentParser) -> None:
    _one_spec(parser)
    _weights_arguments(parser)
    _limits_arguments(parser)
    parser.add_argument("--save", metavar="OUT", help="write the weights, with the spec inside, to OUT.safetensors")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _one_spec(parser)
    parser.add_argument(
        "--image",
        action="append",
        required=True,
        metavar="[NAME=]IMAGE",
        help="a picture, a .npy array or a TIFF; with several inputs, one for each",
    )
    parser.add_argument("-o", "--out", metavar="OUT", help="the picture to draw: .png or .jpg")
    parser.add_argument("--weights", metavar="FILE", help="a file that composer.save wrote for this spec")
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
    _weights_arguments(parser)
    _limits_arguments(parser)


def _fit_arguments(parser: argparse.ArgumentParser) -> None:
    _one_spec(parser)
    parser.add_argument("--write", action="store_true", help="write it into FILE; without this, to stdout")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("encoders", "necks", "decoders", "heads"))
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="with stars, in quotes: 'timm/*resnet*'")


def _matrix_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--encoders", default="timm/*", metavar="PATTERN", help="with stars, in quotes ('timm/*')")
    parser.add_argument("--decoders", default="*", metavar="PATTERN", help="'*', 'smp/*', UNetDecoder ('*')")
    parser.add_argument("--format", choices=("table", "csv", "json", "png"), default="table")
    parser.add_argument("-o", "--out", metavar="OUT", help="the file to write; without it, to stdout")
    parser.add_argument(
        "-j", "--jobs", type=_jobs, default=os.cpu_count() or 1, metavar="N", help="processes (one for each core)"
    )


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", choices=("terratorch",), help="whose config it is")
    parser.add_argument("file", metavar="CONFIG", help="what terratorch fit --config takes")
    parser.add_argument("-o", "--out", metavar="SPEC", help="the spec to write: .yaml; without it, to stdout")


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise ValueError(text)
    return number


def _amount(text: str) -> int:
    """`50M` is fifty million: k, M, G and T are a thousand times as much each as what comes before."""
    digits = text.rstrip("".join(_THOUSANDS))
    times = _THOUSANDS.get(text[len(digits) :])
    if times is None or not digits.isdecimal() or len(digits) > 18:
        raise ValueError(text)
    return int(digits) * times


_THOUSANDS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _jobs(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1024:
        raise ValueError(text)
    return number


_amount.__name__ = "number, such as 50M,"
_jobs.__name__ = "number of processes"
_seed.__name__ = "whole number"  # as argparse names it: invalid whole number value: '-1'


def _check(arguments: argparse.Namespace) -> int:
    from composer.commands.checking import check

    return check(arguments.files, arguments.format)


def _show(arguments: argparse.Namespace) -> int:
    from composer import infer
    from composer.commands.showing import show

    say(rendered(*show(infer(graph_in(arguments.file)))))
    return 0


def _fit(arguments: argparse.Namespace) -> int:
    from composer.commands.mending import fit_spec

    fit_spec(arguments.file, in_place=arguments.write)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from composer.commands.outfile import check_writable

    out = None if arguments.save is None else check_writable(arguments.save, (".safetensors",))
    graph = graph_in(arguments.file)
    note("building the model …")
    with interrupts_held():
        from composer import build
    from composer.commands.shapes import outputs_table
    from composer.commands.weighing import provenance, weigh, weights_table

    model = build(graph, seed=arguments.seed, pretrained=arguments.pretrained, limits=_limits(arguments))
    say(rendered(weights_table(weigh(model)), "", outputs_table(model.typed), ""))
    say(provenance(model.typed, arguments.seed, pretrained=arguments.pretrained))
    if out is not None:
        from composer import save

        try:
            save(model, out)
        except OSError as error:
            raise UsageError(f"{error}; choose another folder.") from error
        say(f"wrote {arguments.save}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from composer.commands.running import Request, run

    run(
        Request(
            file=arguments.file,
            images=arguments.image,
            out=arguments.out,
            weights=arguments.weights,
            bands=arguments.bands,
            show_bands=arguments.show_bands,
            seed=arguments.seed,
            pretrained=arguments.pretrained,
            limits=_limits(arguments),
        )
    )
    return 0


def _limits(arguments: argparse.Namespace) -> Limits | None:
    given = Limits(parameters=arguments.max_parameters, bytes=arguments.max_memory)
    return None if given == Limits() else given


def _list(arguments: argparse.Namespace) -> int:
    from composer.commands.listing import parts_of, parts_table

    kind, pattern = arguments.kind, arguments.pattern
    if kind == "encoders" and pattern is not None and pattern not in parts_of(kind)[0]:
        from composer.commands.naming import encoder_names

        say("\n".join(encoder_names(pattern)))
        return 0
    say(rendered(parts_table(kind, pattern)))
    if kind == "encoders" and pattern is None:
        say("python -m composer list encoders 'timm/*resnet*' lists names.")
    return 0


def _matrix(arguments: argparse.Namespace) -> int:
    from composer.commands.pairing import pair

    pair(arguments.encoders, arguments.decoders, arguments.format, arguments.out, arguments.jobs)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from composer.commands.importing import import_terratorch

    import_terratorch(arguments.file, arguments.out)
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that has no ← gets a ?
    keep_to_memory()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has gone; Python would complain about it once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except OSError as error:  # of stdout, where it goes to a disk that is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        note(f"stdout: cannot be written ({error.strerror or error}).")
        code = 2
    sys.exit(code)
