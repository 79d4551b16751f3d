"""A coverage-guided fuzzer against `composer.spec.reads`: whatever the bytes, a graph or a SpecError.

It needs atheris, which is not among the extras (`pip install atheris`). From the root of a checkout:

    python tests/fuzz_reads.py FOLDER -max_total_time=1800

FOLDER keeps the inputs that reach something new, so that a later run goes on from there; the specs of specs/ are its
first ones. All other options are libFuzzer's. It stops at the first finding, and writes the input to `crash-…` in the
folder in which it was started.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer.errors import SpecError
    from composer.graph import Graph

ROOT = Path(__file__).parent.parent
SECONDS = 60
"""What one input may take by the clock, on a busy machine too: a text of a megabyte takes less than one alone."""

MEGABYTES = 2048


def take(data: bytes) -> Graph | None:
    """The graph of a file of these bytes, which is written and read again; None if they are refused.

    Raises whatever is no answer: another error than a SpecError, and a problem that says nothing or stands nowhere.
    """
    from composer.errors import SpecError
    from composer.spec.reader import reads
    from composer.spec.writer import write
    from composer.spec.yaml import decode_text

    try:
        graph = reads(decode_text(data, "spec.yaml"), name="spec.yaml")
    except SpecError as error:
        check_problems(error)
        return None
    text = write(graph)
    assert reads(text) == graph, text
    assert write(reads(text)) == text
    return graph


def check_problems(error: SpecError) -> None:
    """An error has problems, each with a code, a place in the text and a message that is printed."""
    from composer.errors import make_printable

    assert error.problems
    for problem in error.problems:
        assert all((problem.code, problem.message.strip(), problem.place.line)), problem
        assert problem.place.file == "spec.yaml", problem
        assert make_printable(problem.message) in str(error), problem


def words() -> list[str]:
    """The names of parts and fields, and what means something in YAML."""
    from composer.layouts import Image
    from composer.parts import PARTS
    from composer.sizes import Padding
    from composer.spec.reader import CHAIN_KEYS, GRAPH_KEYS
    from composer.spec.schema import get_fields

    fields = {name for cls in (*PARTS.values(), Image, Padding) for name in get_fields(cls)}
    signs = ("{", "}", "[", "]", ": ", "- ", "&a ", "*a", "<<: ", "? ", "| ", "> ", "!!int ", "%YAML 1.2", "---", "...")
    values = ("null", "true", ".nan", "-.inf", "0x1F", "1e400", "-1", "3/2", "necks[0]", "aux.early.decoder")
    names = [*(name for name in PARTS if not name.endswith("/")), "timm/test_resnet", "smp/resnet18"]
    return sorted({*CHAIN_KEYS, *GRAPH_KEYS, "part", "share", "from", *fields, *signs, *values, *names})


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer is done, or until something is found."""
    from tempfile import NamedTemporaryFile

    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["composer"]):
        import composer.spec  # noqa: F401
    with NamedTemporaryFile("w", suffix=".dict") as dictionary:
        dictionary.write("".join(f'"{word}"\n' for word in words()))
        dictionary.flush()
        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-max_len=65536"]
        atheris.Setup([sys.argv[0], f"-dict={dictionary.name}", *limits, *arguments, str(ROOT / "specs")], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
