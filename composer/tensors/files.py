"""Read files of tensors: safetensors, and archives of torch.save."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import frozen
from safetensors import SafetensorError, safe_open
from torch import Tensor

from composer.tensors import CONVERT_HINT, SAVE_STATE_DICT_HINT, UnreadableError
from composer.tensors.pickles import MAX_STEPS, READ_DTYPES, ZIP_MAGIC, UnusableTensor, read_archive

MAX_HEADER_BYTES = 2**24
"""The size of a safetensors header, which has about 150 bytes for each tensor: this is 100,000."""

MAX_SIZE_RATIO = 4
"""How many times as large as a file its tensors may be: those that share memory are counted each."""

SHARD_INDEX_SUFFIX = ".index.json"

STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")
"""The keys under which a checkpoint may hold the state dict."""

_LFS_POINTER = b"version https://git-lfs."


@frozen
class TensorFile:
    """The tensors of a file by name, as views of the mapped file, and the metadata of safetensors."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def open_tensors(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> TensorFile:
    """Open a file of safetensors, or one that torch.save wrote, with its state dict perhaps under a name of `under`.

    Raises UnreadableError where the file cannot be read or holds no tensors by name; other content is ignored.
    """
    path = Path(file)
    start = _read_start(path)
    if path.name.endswith(SHARD_INDEX_SUFFIX):
        raise UnreadableError(
            "is a list of shards, and not the weights themselves",
            "put the tensors of all shards into one dict and save that: torch.save(state, file)",
        )
    if start.startswith(ZIP_MAGIC):
        return TensorFile(_select_state_dict(read_archive(path), under), {})
    return _read_safetensors(path, start, "give a file of safetensors, or one that torch.save wrote")


def open_safetensors(file: str | PathLike[str], fix: str) -> TensorFile:
    """Open a file of safetensors. Raises UnreadableError, with `fix` as the next step, for any other file."""
    return _read_safetensors(Path(file), _read_start(Path(file)), fix)


def read_tensor_file(file: str | PathLike[str], under: Sequence[str] = STATE_DICT_KEYS) -> dict[str, Tensor]:
    """Return copies of all tensors of a file.

    Raises UnreadableError where the file cannot be read, and where the tensors take `MAX_SIZE_RATIO` times its size.
    """
    tensors = open_tensors(file, under).tensors
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_SIZE_RATIO * Path(file).stat().st_size:
        raise UnreadableError(
            f"has tensors that come to more than {MAX_SIZE_RATIO} times its own size",
            "save each in memory of its own: tensor.clone()",
        )
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _read_start(path: Path) -> bytes:
    """Return the first bytes of a file. Raises UnreadableError where it is not a file, or cannot be opened."""
    try:
        if not path.is_file():
            raise UnreadableError("is a folder" if path.is_dir() else "is not a file", "check the path")
        with path.open("rb") as stream:
            return stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise UnreadableError(
            f"cannot be read ({error.strerror or error})", "check the file and its permissions"
        ) from error


def _read_safetensors(path: Path, start: bytes, fix: str) -> TensorFile:
    """Return the mapped tensors and the metadata of a file that begins with `start`."""
    _check_format(start, fix)
    if MAX_HEADER_BYTES < int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        raise UnreadableError(f"has a header of more than {MAX_HEADER_BYTES:,} bytes", fix)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UnreadableError(f"is not a safetensors file ({error})", fix) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in READ_DTYPES.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnreadableError(f"has {name} of a kind that is not read ({kind!r})", CONVERT_HINT)
    return TensorFile(tensors, metadata)


def _check_format(start: bytes, fix: str) -> None:
    """Raise UnreadableError for files that are often given by mistake, by their first bytes.

    Read as the length of a header, those of a text or a pickle are more than any file has.
    """
    if start == _LFS_POINTER:
        raise UnreadableError("is a pointer of git-lfs, and not the file itself", "fetch the file: git lfs pull")
    if start.isascii() and start[:8].decode("ascii").isprintable() and len(start) >= 8:
        raise UnreadableError("is a text", fix)
    if start[:1] == b"\x80" and any(start[3:8]):
        raise UnreadableError(
            "is a pickle outside a zip archive, as torch wrote before 1.6",
            "convert it: torch.save(torch.load(file, weights_only=True), file)",
        )


def _select_state_dict(entries: Mapping[Any, Any], under: Sequence[str]) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint. Raises UnreadableError where it has none.

    Of several, that is the first of `under`. Where there is none of those, or another network may be beside it, it is
    all of them, each behind its name. Averaged weights are selected before others, as in timm.
    """
    chosen = next((name for name in under if isinstance(entries.get(name), dict) and entries[name]), None)
    inner = _find_state_dicts(entries)
    state = dict(entries if chosen is None else entries[chosen])
    # A few tensors beside it are the mean of the images, or class weights.
    has_rival = any(2 * len(other) >= len(state) for name, other in inner.items() if name != chosen)
    if chosen is None or (chosen in inner and not chosen.endswith("_ema") and has_rival):
        state = {f"{outer}.{name}": tensor for outer in inner for name, tensor in inner[outer].items()} or state
    for name, value in state.items():
        if isinstance(value, UnusableTensor):
            raise UnreadableError(value.problem.replace("{}", str(name), 1), value.fix)
    others = [name or "a key that is not a string" for name, value in state.items() if not (name and _is_tensor(value))]
    if len(others) == len(state):
        raise UnreadableError("holds no tensors by name", SAVE_STATE_DICT_HINT)
    if others:
        listed = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        raise UnreadableError(
            f"holds tensors by name beside {len(others)} other values ({listed})", SAVE_STATE_DICT_HINT
        )
    return state


def _find_state_dicts(entries: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return the state dicts in a dict without tensors of its own, by name, such as `teacher` and `student`."""
    if any(map(_is_tensor, entries.values())):
        return {}
    inner = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, dict)}
    # One dict under thousands of names would take forever.
    if sum(map(len, inner.values())) > MAX_STEPS:
        raise UnreadableError(f"holds more than {MAX_STEPS:,} values by name", SAVE_STATE_DICT_HINT)
    return {
        outer: state
        for outer, state in inner.items()
        if all(isinstance(name, str) and _is_tensor(tensor) for name, tensor in state.items())
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | UnusableTensor)
