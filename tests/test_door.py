"""The command line among odd callers: streams, pipes, names, links, hostile images, full disks, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from composer.cli.main import main
from composer.errors import MAX_MESSAGE_LENGTH, Place, Problem, SpecError, make_printable
from composer.spec.reader import reads

ROOT = Path(__file__).parents[1]
SPEC = """\
encoder: timm/test_resnet
decoder: {FCNDecoder: {channels: 8, num_convs: 1}}
head: {SegmentationHead: {num_classes: 2}}
"""
UNFIXED = SPEC.replace("timm/test_resnet", "{timm/test_vit: {tokens: true}}")
RUN = ["run", "spec.yaml", "--image", "image.png", "-o", "out.png"]
BUILD = ["build", "spec.yaml", "--save", "out.safetensors"]
FIX = ["check", "unfixed.yaml", "--fix"]
MATRIX = ["matrix", "--encoders", "timm/resnet18", "--format", "csv", "-o", "out.csv", "-j", "1"]
LONG = "a" * 300


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two specs and an image, which is where the commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    (tmp_path / "unfixed.yaml").write_text(UNFIXED, encoding="utf-8")
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save("image.png")
    return tmp_path


@pytest.fixture
def before(here):
    """What is in that folder, byte by byte, before anything is done."""
    return contents(here)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run_on(image):
    return main(["run", "spec.yaml", "--image", image, "-o", "out.png"])


def start(*command, run=subprocess.run, **options):
    """Start a command in a process of its own; it runs to its end unless `run` is another function."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment} | options
    return run([*command], **options)


OK = "ok  head (b, 2, H, W); multiple of 32, at least 32, any shape\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        pytest.param("composer check spec.yaml >&-", (0, "", ""), id="stdout closed"),
        pytest.param("composer check none.yaml 2>&-", (2, "", ""), id="stderr closed, and something to say"),
        pytest.param("cat spec.yaml | composer check /dev/stdin", (0, f"/dev/stdin: {OK}", ""), id="stdin"),
        pytest.param(
            "mkfifo pipe; cat spec.yaml > pipe & composer check --diff pipe 2>&-", (0, "", ""), id="a pipe with a name"
        ),
    ],
)
def test_streams_and_pipes(here, command, said):
    ran = start("bash", "-c", command.replace("composer", f"{sys.executable} -m composer"))
    assert (ran.returncode, ran.stdout, ran.stderr) == said


def test_a_reader_that_leaves_is_no_error(here):
    reader, writer = os.pipe()
    os.close(reader)
    ran = start(sys.executable, "-m", "composer", "check", "spec.yaml", stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_a_terminal_without_the_letters_gets_others(here, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("FORCE_COLOR", "1")
    ran = start(sys.executable, "-m", "composer", "show", "spec.yaml")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "? image" in ran.stdout
    assert "\x1b[1;36mencoder" in ran.stdout


def test_to_show_a_graph_only_rich_is_imported(here):
    assert main(["check", "spec.yaml"]) == 0  # so that the facts are on disk
    modules = "{'torch', 'timm', 'numpy', 'rich', 'rasterio', 'matplotlib'} & set(sys.modules)"
    code = f"import sys; from composer.__main__ import main; main(['show', 'spec.yaml']); print({modules})"
    assert start(sys.executable, "-c", code).stdout.splitlines()[-1] == "{'rich'}"


def test_a_user_without_a_home_has_no_cache(here, capsys, monkeypatch):
    """As in a container that is run by a number for a user. What stands in no catalogue is then found out each time."""
    monkeypatch.delenv("COMPOSER_CACHE")
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("Could not determine home directory.")))
    Path("spec.yaml").write_text(SPEC.replace("timm/test_resnet", "{timm/test_resnet: {any_size: true}}"))
    assert main(["check", "spec.yaml"]) == 0
    assert capsys.readouterr() == (f"spec.yaml: {OK}", "")


LOST = "itself, which would be lost; choose another name."
REFUSED = {
    "run spec.yaml --image image=image.png -o ./image.png": f"./image.png: this is the image {LOST}",
    "run spec.yaml --image a=b.png -o a=b.png": f"a=b.png: this is the image {LOST}",
    "run spec.yaml --image image.png --weights weights.png -o weights.png": (
        f"weights.png: this is the file of weights {LOST}"
    ),
    "run spec.png --image image.png -o spec.png": f"spec.png: this is the spec {LOST}",
    "run spec.yaml --image image.png -o circle.png": (
        "circle.png: cannot be written (Symlink loop from '{here}/circle.png'); choose another name or folder."
    ),
    "run spec.yaml --image image.png -o folder.png": (
        "folder.png: cannot be written (Is a directory); choose another name or folder."
    ),
    "build spec.yaml --save none/x.safetensors": (
        "none/x.safetensors: cannot be written (No such file or directory); choose another name or folder."
    ),
    "run spec.yaml --image pipe.png -o o.png": "pipe.png: this is a pipe or a device; name a file.",
    f"run spec.yaml --image image.png -o o.png --weights {LONG}": f"{LONG}: cannot be read (File name too long).",
    "check \x1b[31mred.yaml": "\\x1b[31mred.yaml: there is no such file; check the path.",
    "check ": "'' names no file; check the path.",
}


@pytest.mark.parametrize(("arguments", "said"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_refused_before_anything_is_done(here, arguments, said, capsys):
    (here / "circle.png").symlink_to("circle.png")
    (here / "folder.png").mkdir()
    os.mkfifo("pipe.png")
    (here / "weights.png").write_text("weights", encoding="utf-8")
    for copy, name in (("a=b.png", "image.png"), ("spec.png", "spec.yaml")):
        (here / copy).write_bytes((here / name).read_bytes())
    before = contents(here)
    assert main(arguments.split(" ")) == 2
    assert capsys.readouterr() == ("", f"{said.replace('{here}', str(here))}\n")
    assert contents(here) == before


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain ← × …", "plain ← × …"),
        ("\x1b[31m\x07\u202e", "\\x1b[31m\\x07\\u202e"),
        ("a\nb\tc", "a\\nb\\tc"),
    ],
    ids=["letters", "escapes", "lines"],
)
def test_what_would_move_the_cursor_is_spelled_out(text, seen):
    problem = Problem(code="part", message=f"{text}.", place=Place("a", f"{text}.yaml", 1, 2), fix=text)
    assert make_printable(text) == seen
    assert str(problem) == f"{seen}.yaml:1:2: error[part] a: {seen}.\n  fix: {seen}"


@pytest.mark.parametrize("most", [MAX_MESSAGE_LENGTH, 10 * MAX_MESSAGE_LENGTH], ids=["as it is", "shortened"])
def test_what_is_quoted_is_kept_short(most):
    quoted = Problem(code="key", message=f"begin {'x' * (most - 10)} end", got="y" * most, fix="z" * most)
    assert [len(quoted.message), len(quoted.got), len(quoted.fix)] == [min(most, MAX_MESSAGE_LENGTH + 3)] * 3
    assert (quoted.message[:7], quoted.message[-4:]) == ("begin x", " end")


HUGE = {
    "a part": (f"encoder: smp/resnet{'9' * 900_000}\n", 1),
    "a node": (f"nodes: {{{'a' * 900_000}: {{part: FCNDecoder, from: image}}}}\n", 3),
    "keys that are there twice": ("{" + "a: b, " * 9_000 + "a: b}", 101),
    "tags": ("[" + "!!str a, " * 9_000 + "]", 101),
}


@pytest.mark.parametrize(("text", "most"), HUGE.values(), ids=HUGE)
def test_of_a_huge_text_little_is_said(text, most):
    with pytest.raises(SpecError) as caught:
        reads(text)
    assert len(caught.value.problems) <= most
    assert len(str(caught.value)) < 40_000


def test_the_name_of_a_part_has_a_most():
    with pytest.raises(SpecError, match=r"error\[limit\] encoder: invalid part name .* has at most 4,096 letters\."):
        reads(f"encoder: timm/{'a' * 5000}\ndecoder: FCNDecoder\n")


MADE = {
    "cut.npy": (
        lambda file: file.write_bytes(file.read_bytes()[:200]),
        "cannot be read as an image (mmap length is greater than file size).",
    ),
    "objects.npy": (
        lambda file: np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True),
        "cannot be read as an image (Array can't be memory-mapped: Python objects in dtype).",
    ),
    "large.npy": (
        lambda file: np.save(file, np.linspace(0, 1e300, 192).reshape(3, 8, 8)),
        "image: band 1 holds numbers too large to average, such as 3.29843e+299.",
    ),
}


@pytest.mark.parametrize(("name", "make", "said"), [(name, *pair) for name, pair in MADE.items()], ids=MADE)
def test_an_image_that_is_none_is_one_line(here, capsys, name, make, said):
    with (here / name).open("wb") as stream:
        np.save(stream, np.zeros((3, 8, 8)))
    make(here / name)
    assert run_on(name) == 2
    assert capsys.readouterr().err == f"{name}: {said}\n"


@pytest.mark.parametrize("size", [(1, 1), (3, 20_000)], ids=str)
def test_an_image_of_any_shape_is_run_on(here, capsys, size):
    Image.new("RGB", size, "teal").save("odd.png")
    assert run_on("odd.png") == 0
    assert capsys.readouterr().out.startswith(f"image: odd.png, {size[1]} high, {size[0]} wide; ")


def test_a_file_that_may_not_be_read(here, capsys, monkeypatch):
    """Whoever is root may read all, so that no permission would show it."""
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert main(["show", "spec.yaml"]) == 2
    assert capsys.readouterr() == ("", "spec.yaml: cannot be read (Permission denied).\n")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("rasterio.open", "image.png: out of memory for an image of this size; crop it."),
        ("composer.cli.run.prepare_inputs", "out of memory; use a smaller model or image, or close other programs."),
    ],
    ids=["an image", "anything else"],
)
def test_what_runs_out_of_memory_is_one_line(here, capsys, monkeypatch, place, said):
    monkeypatch.setattr(place, Mock(side_effect=MemoryError))
    assert run_on("image.png") == 2
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are left to themselves")
def test_a_process_keeps_to_the_memory_that_there_is():
    code = "from composer.process import limit_memory as k; k(); bytearray(2**46)"
    assert start(sys.executable, "-c", code).stderr.splitlines()[-1] == "MemoryError"


def test_a_disk_that_is_full_leaves_all_as_it_was(here, before, capsys, monkeypatch):
    def fill_up(self, *_, **__):
        self.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    assert main(FIX) == 2
    assert capsys.readouterr() == ("", "unfixed.yaml: cannot be written (No space left on device).\n")
    assert contents(here) == before


def test_a_disk_that_is_full_takes_no_half_of_the_weights(here, before, capsys, monkeypatch):
    def full(_, file, **__):
        Path(file).write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("composer.weights.save_file", full)
    assert main(BUILD) == 2
    assert capsys.readouterr().err == (
        "building the model …\n"
        f"{here}/out.safetensors cannot be written: I/O error: No space left on device (os error 28); "
        "choose another folder.\n"
    )
    assert contents(here) == before


def test_a_full_disk_behind_stdout_is_one_line(here):
    with open("/dev/full", "w") as full:
        ran = start(sys.executable, "-m", "composer", "list", "necks", stdout=full)
    assert (ran.returncode, ran.stderr) == (2, "stdout: cannot be written (No space left on device).\n")


@pytest.fixture
def attended():
    """Ctrl-C interrupts, also where the tests run in the background, of which a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupting(monkeypatch, place, *, halfway=None):
    """Ctrl-C as soon as `place` is reached; `halfway` is the position of a file that is then half written."""

    def interrupted(*arguments, **__):
        if halfway is not None:
            Path(arguments[halfway]).write_bytes(b"half of it")
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("nobody was interrupted")

    monkeypatch.setattr(place, interrupted)


INTERRUPTED = {
    "while an image is read": (RUN, "composer.cli.run.prepare_inputs", None),
    "while a model is built": (BUILD, "composer.building._build_module", None),
    "while a model runs": (RUN, "composer.cli.run._predict", None),
    "while weights are written": (BUILD, "composer.weights.save_file", 1),
    "while a spec is fixed": (FIX, "composer.cli.check.fix_text", None),
    "while a matrix is written": (MATRIX, "pathlib.Path.write_text", None),
}


@pytest.mark.parametrize(("command", "place", "halfway"), INTERRUPTED.values(), ids=INTERRUPTED)
@pytest.mark.usefixtures("attended")
def test_ctrl_c_leaves_nothing_behind(here, before, capsys, monkeypatch, command, place, halfway):
    with monkeypatch.context() as patched:
        interrupting(patched, place, halfway=halfway)
        assert main(command) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    assert contents(here) == before


@pytest.mark.usefixtures("attended")
@pytest.mark.parametrize(
    ("command", "wait"),
    [
        pytest.param(RUN, 1.5, id="run"),
        pytest.param([*MATRIX[:1], "-j", "2", "-o", "out.txt"], 2.5, id="matrix", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_at_a_terminal_says_so_once(here, before, command, wait):
    """It reaches all processes of the terminal: those of a matrix say nothing."""
    started = start(sys.executable, "-m", "composer", *command, run=subprocess.Popen, start_new_session=True)
    time.sleep(wait)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    # A library that is interrupted while Python imports it makes Python itself end by the signal: a shell sees 130 too.
    assert started.returncode in (130, -signal.SIGINT)
    assert [line for line in said.splitlines() if not line.endswith("…")] == ["interrupted"]
    assert contents(here) == before
