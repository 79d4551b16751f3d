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
from shutil import copyfile
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
SECONDS = 60
"""What one input may take by the clock, on a busy machine too: a text of a megabyte takes less than one alone."""

MEGABYTES = 2048


def take(data: bytes) -> bool:
    """Whether a file of these bytes is a graph; one that is, is written and read again.

    Raises whatever is no answer: another error than a SpecError, and a problem that says nothing or stands nowhere.
    """
    from composer.errors import SpecError, make_printable
    from composer.spec.reader import reads
    from composer.spec.writer import write
    from composer.spec.yaml import decode_text

    try:
        graph = reads(decode_text(data, "spec.yaml"), name="spec.yaml")
    except SpecError as error:
        answer = error
    else:
        text = write(graph)
        assert reads(text) == graph, text
        assert write(reads(text)) == text
        return True
    assert answer.problems
    lines = str(answer)
    for problem in answer.problems:
        assert problem.code, problem
        assert problem.message.strip(), problem
        assert make_printable(problem.message) in lines, problem
        assert problem.place.file == "spec.yaml", problem
        assert problem.place.line, problem
    return False


def words() -> str:
    """A dictionary for libFuzzer: the names of parts and fields, and what means something in YAML."""
    from composer.layouts import Image
    from composer.parts import PARTS
    from composer.sizes import Padding
    from composer.spec.reader import CHAIN_KEYS, GRAPH_KEYS
    from composer.spec.schema import get_fields

    keys = {*CHAIN_KEYS, *GRAPH_KEYS, "part", "share", "from", "timm/resnet18"}
    fields = {name for cls in (*PARTS.values(), Image, Padding) for name in get_fields(cls)}
    signs = ("{", "}", "[", "]", ": ", "- ", "&a ", "*a", "<<: ", "? ", "| ", "> ", "!!int ", "%YAML 1.2", "---", "...")
    values = ("null", "true", ".nan", "-.inf", "0x1F", "1e400", "-1", "3/2", "necks[0]", "aux.early.decoder")
    own = [name for name in PARTS if "/" not in name]
    found = sorted({*keys, *fields, *own, *signs, *values, "smp/Unet", "smp/resnet18"})
    return "".join(f'"{word}"\n' for word in found)


def main(arguments: list[str]) -> None:
    """Fuzz until libFuzzer is done, or until something is found."""
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["composer"]):
        import composer.spec  # noqa: F401
    with TemporaryDirectory() as folder:
        dictionary, seeds = Path(folder) / "words.dict", Path(folder) / "seeds"
        dictionary.write_text(words(), encoding="ascii")
        seeds.mkdir()
        for spec in ROOT.glob("specs/*.yaml"):
            copyfile(spec, seeds / spec.name)
        options = [f"-dict={dictionary}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-max_len=65536"]
        atheris.Setup([sys.argv[0], *options, *arguments, str(seeds)], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
