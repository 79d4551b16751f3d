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
    add_autofix_arguments,
    add_build_arguments,
    add_check_arguments,
    add_import_arguments,
    add_list_arguments,
    add_matrix_arguments,
    add_run_arguments,
    add_spec_argument,
)
from composer.commands.ceiling import limit_memory
from composer.commands.terminal import UsageError, log, print_text, read_spec, render
from composer.limits import Limits
from composer.problem import SpecError

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
    _add_command(commands, "fit", _run_autofix, "put in the necks that make a spec lawful", add_autofix_arguments)
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
    from composer.commands.checking import check

    return check(arguments.files, arguments.format)


def _run_show(arguments: argparse.Namespace) -> int:
    from composer import infer
    from composer.commands.showing import render_typed_graph

    print_text(render(*render_typed_graph(infer(read_spec(arguments.file)))))
    return 0


def _run_autofix(arguments: argparse.Namespace) -> int:
    from composer.commands.mending import autofix_spec

    autofix_spec(arguments.file, in_place=arguments.write)
    return 0


def _run_build(arguments: argparse.Namespace) -> int:
    from composer.commands.building import build_spec

    build_spec(
        arguments.file,
        save_to=arguments.save,
        seed=arguments.seed,
        pretrained=arguments.pretrained,
        limits=_parse_limits(arguments),
    )
    return 0


def _run_prediction(arguments: argparse.Namespace) -> int:
    from composer.commands.running import RunRequest, run

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
    from composer.commands.listing import build_parts_table, list_parts

    kind, pattern = arguments.kind, arguments.pattern
    if kind == "encoders" and pattern is not None and pattern not in list_parts(kind)[0]:
        from composer.commands.naming import list_encoder_names

        print_text("\n".join(list_encoder_names(pattern)))
        return 0
    print_text(render(build_parts_table(kind, pattern)))
    if kind == "encoders" and pattern is None:
        print_text("python -m composer list encoders 'timm/*resnet*' lists names.")
    return 0


def _run_matrix(arguments: argparse.Namespace) -> int:
    from composer.commands.pairing import write_matrix

    write_matrix(arguments.encoders, arguments.decoders, arguments.format, arguments.out, arguments.jobs)
    return 0


def _run_import(arguments: argparse.Namespace) -> int:
    from composer.commands.importing import import_terratorch

    import_terratorch(arguments.file, arguments.out)
    return 0


if __name__ == "__main__":
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called, so that nobody wants to know
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, it is open as long as Python is
        getattr(sys, name).reconfigure(errors="replace")  # a terminal that has no ← gets a ?
    limit_memory()
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
        log(f"{what} ({error.strerror or error}).")
        code = 2
    sys.exit(code)
