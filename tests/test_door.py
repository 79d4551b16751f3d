"""What comes in at the door of the command line, and what goes out: hostile images, full disks, Ctrl-C."""

from __future__ import annotations

import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from safetensors import SafetensorError

from composer.cli.main import main
from composer.cli.terminal import limit_memory

ROOT = Path(__file__).parents[1]
SPEC = """\
encoder: timm/test_resnet
decoder: {FCNDecoder: {channels: 8, num_convs: 1}}
head: {SegmentationHead: {num_classes: 2}}
"""
UNFIXED = """\
encoder: {timm/test_vit: {tokens: true}}
decoder: {FCNDecoder: {channels: 8, num_convs: 1}}
head: {SegmentationHead: {num_classes: 2}}
"""
RUN = ["run", "spec.yaml", "--image", "image.png", "-o", "out.png"]
BUILD = ["build", "spec.yaml", "--save", "out.safetensors"]
FIX = ["check", "unfixed.yaml", "--fix"]
MATRIX = ["matrix", "--encoders", "timm/resnet18", "--format", "csv", "-o", "out.csv", "-j", "1"]


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
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_on(image):
    return main(["run", "spec.yaml", "--image", image, "-o", "out.png"])


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(file, height, width, rows=b""):
    """A PNG that says it is so large, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))


def npy(file, header, data=b"\0" * 100):
    """An array that says so of itself, whatever it holds."""
    text = (header + " " * (117 - len(header)) + "\n").encode()
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


def array(kind, shape):
    return f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}"


def tiff(file, **tags):
    """A TIFF of six bands of 16 bits, of which `tags` say something else."""
    values = np.zeros((6, 32, 32), np.uint16)
    options = {"count": 6, "height": 32, "width": 32, "dtype": "uint16"}
    with warnings.catch_warnings(action="ignore"), rasterio.open(file, "w", "GTiff", **options) as target:
        target.write(values)
    data = bytearray(file.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        (tag,) = struct.unpack_from("<H", data, place)
        if f"t{tag}" in tags:
            struct.pack_into("<HHII", data, place, tag, 4, 1, tags[f"t{tag}"])
    file.write_bytes(data)


MADE = {
    "bomb.png": lambda f: png(f, 20_000, 10_000, b"\0" * 30_001 * 1000),
    "cut.png": lambda f: f.write_bytes(Path("image.png").read_bytes()[:3000]),
    "lies.npy": lambda f: npy(f, array("<f4", (3, 1000, 1000))),
    "far.npy": lambda f: npy(f, array("<f4", (3, 10**9, 10**9))),
    "objects.npy": lambda f: np.save(f, np.array([{"a": 1}], dtype=object), allow_pickle=True),
    "nan.npy": lambda f: np.save(f, np.full((3, 8, 8), np.nan)),
    "large.npy": lambda f: np.save(f, np.linspace(0, 1e300, 192).reshape(3, 8, 8)),
    "bomb.tif": lambda f: tiff(f, t256=60_000, t257=60_000),
    "pipe.png": os.mkfifo,
    "device.png": lambda f: f.symlink_to("/dev/zero"),
    "folder.png": lambda f: f.mkdir(),
}
BY_GDAL = "cannot be read as an image (…)."
SAID = {
    "bomb.png": BY_GDAL,
    "cut.png": BY_GDAL,
    "lies.npy": "cannot be read as an image (mmap length is greater than file size).",
    "far.npy": "cannot be read as an image (memory mapped length must be positive).",
    "objects.npy": "cannot be read as an image (Array can't be memory-mapped: Python objects in dtype).",
    "nan.npy": "image: band 1 of the input holds no data at all.",
    "large.npy": "image: band 1 holds numbers too large to average, such as 3.29843e+299.",
    "bomb.tif": "an image has at most 4 GiB (this has 40.2); crop it.",
    "pipe.png": "this is a pipe or a device; name a file.",
    "device.png": "this is a pipe or a device; name a file.",
    "folder.png": "this is a folder; name a file in it.",
}


@pytest.mark.parametrize("name", MADE)
def test_an_image_that_is_none_is_one_line(here, capsys, name):
    MADE[name](here / name)
    assert run_on(name) == 2
    pattern = re.escape(f"{name}: {SAID[name]}\n").replace("…", r"[^\n]+")
    assert re.fullmatch(pattern, capsys.readouterr().err)
    assert not (here / "out.png").exists()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)], ids=str)
def test_an_image_of_any_shape_is_run_on(here, capsys, size):
    Image.new("RGB", size, "teal").save("odd.png")
    assert run_on("odd.png") == 0
    assert capsys.readouterr().out.startswith(f"image: odd.png, {size[1]} high, {size[0]} wide; ")


def test_an_image_that_may_not_be_read(here, capsys, monkeypatch):
    """Whoever is root may read all, so that no permission would show it."""

    opened = Path.open

    def refused(self, *arguments, **more):
        if self.name == "image.png":
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refused)
    assert run_on("image.png") == 2
    assert capsys.readouterr().err == "image.png: cannot be read (Permission denied).\n"


def test_a_picture_that_memory_does_not_suffice_for(here, capsys, monkeypatch):
    def refused(*_, **__):
        raise MemoryError

    monkeypatch.setattr("rasterio.open", refused)
    assert run_on("image.png") == 2
    assert capsys.readouterr().err == "image.png: out of memory for an image of this size; crop it.\n"


def test_what_runs_out_of_memory_anywhere_is_one_line(here, capsys, monkeypatch):
    def refused(*_, **__):
        raise MemoryError

    monkeypatch.setattr("composer.cli.run.prepare_inputs", refused)
    assert run_on("image.png") == 2
    assert capsys.readouterr().err == ("out of memory; use a smaller model or image, or close other programs.\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are left to themselves")
def test_a_process_keeps_to_the_memory_that_there_is():
    code = "from composer.cli.terminal import limit_memory as k; k(); bytearray(2**46)"
    ran = python("-c", code)
    assert ran.stderr.splitlines()[-1] == "MemoryError"
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    assert limit_memory.__module__ == "composer.cli.terminal"
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit


OUTPUTS = {"fix": FIX, "matrix": MATRIX}
FULL = """
import resource, runpy, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.argv = ["composer", *sys.argv[1:]]
runpy.run_module("composer", run_name="__main__")
"""


@pytest.mark.parametrize("command", OUTPUTS.values(), ids=OUTPUTS)
def test_a_disk_that_is_full_leaves_all_as_it_was(here, before, command):
    ran = python("-c", FULL, *command)
    assert ran.returncode == 2
    assert ran.stderr.endswith(": cannot be written (File too large).\n")
    assert "Traceback" not in ran.stderr
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
        ran = subprocess.run(
            [sys.executable, "-m", "composer", "list", "necks"], stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (2, "stdout: cannot be written (No space left on device).\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([*RUN[:-1], "folder.png"], "folder.png: cannot be written (Is a directory)"),
        ([*RUN[:-1], "none/out.png"], "none/out.png: cannot be written (No such file or directory)"),
        ([*BUILD[:-1], "x.safetensors"], "x.safetensors: cannot be written (Is a directory)"),
        ([*BUILD[:-1], "none/x.safetensors"], "none/x.safetensors: cannot be written (No such file or directory)"),
    ],
    ids=["run-folder", "run-none", "build-folder", "build-none"],
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_refused_first(here, capsys, command, said):
    (here / "folder.png").mkdir()
    (here / "x.safetensors").mkdir()
    assert main(command) == 2
    assert capsys.readouterr().err == f"{said}; choose another name or folder.\n"


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
def test_facts_that_are_half_written_are_not_left_behind(here, monkeypatch, tmp_path):
    from composer.encoder_info import _store_cached

    interrupting(monkeypatch, "pathlib.Path.replace")
    with pytest.raises(KeyboardInterrupt):
        _store_cached(tmp_path / "cache" / "facts.json", facts())
    assert list((tmp_path / "cache").iterdir()) == []


def facts():
    import composer

    return composer.EncoderInfo(features=composer.Feature(channels=1))


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
    started = subprocess.Popen(
        [sys.executable, "-m", "composer", *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    time.sleep(wait)
    os.killpg(started.pid, signal.SIGINT)
    _, said = started.communicate(timeout=60)
    # A library that is interrupted while Python imports it makes Python itself end by the signal: a shell sees 130 too.
    assert started.returncode in (130, -signal.SIGINT)
    assert [line for line in said.splitlines() if not line.endswith("…")] == ["interrupted"]
    assert contents(here) == before


def python(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
