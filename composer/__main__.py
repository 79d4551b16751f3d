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

from composer import __version__
from composer.commands.arguments import (
    Command,
    build_arguments,
    check_arguments,
    fit_arguments,
    import_arguments,
    list_arguments,
    matrix_arguments,
    one_spec,
    run_arguments,
)
from composer.commands.ceiling import keep_to_memory
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
    parser.add_argument("--version", action="version", version=f"composer {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Command)
    _add(commands, "check", _check, "say what is wrong with specs, or what they give", check_arguments)
    _add(commands, "show", _show, "show what flows from node to node", one_spec)
    _add(commands, "build", _build, "build the model, and say what it weighs", build_arguments)
    _add(commands, "run", _run, "predict on an image, and draw what comes out", run_arguments)
    _add(commands, "fit", _fit, "put in the necks that make a spec lawful", fit_arguments)
    _add(commands, "list", _list, "list the parts that a spec may name", list_arguments)
    _add(commands, "matrix", _matrix, "say which encoders go with which decoders", matrix_arguments)
    _add(commands, "import", _import, "write the config of another program as a spec", import_arguments)
    return parser


def _add(
    commands: argparse._SubParsersAction[Command],
    name: str,
    command: Callable[[argparse.Namespace], int],
    about: str,
    arguments: Callable[[argparse.ArgumentParser], None],
) -> None:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    parser.arguments = arguments
    parser.set_defaults(command=command)


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
    from composer.commands.building import build_spec

    build_spec(
        arguments.file,
        save_to=arguments.save,
        seed=arguments.seed,
        pretrained=arguments.pretrained,
        limits=_limits(arguments),
    )
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
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called, so that nobody wants to know
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, it is open as long as Python is
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ← gets a ?
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
        what = "stdout: cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
        note(f"{what} ({error.strerror or error}).")
        code = 2
    sys.exit(code)
