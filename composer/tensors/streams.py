"""What torch.save wrote before torch 1.6: pickles one behind the other, and behind them the numbers of each storage."""

from __future__ import annotations

from typing import BinaryIO

from composer.tensors.pickled import MAX_PICKLE_BYTES, PickleResult, read_pickle_at
from composer.tensors.storages import collect_itemsizes
from composer.tensors.unreadable import UnreadableError

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of the number that such a file begins with."""

_MAX_HEADER_INSTRUCTIONS = 100
"""In how many instructions the version and the machine are told, at most."""


class LegacyFile:
    """The storages of such a file by key, and `content`, what its main pickle says."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        self._file = file
        file.seek(0)
        head = file.read(2 * MAX_PICKLE_BYTES)
        version = read_pickle_at(head, len(LEGACY_MAGIC), _MAX_HEADER_INSTRUCTIONS)
        machine = read_pickle_at(head, version.end, _MAX_HEADER_INSTRUCTIONS)
        if not (isinstance(machine.value, dict) and machine.value.get("little_endian") is True):
            raise UnreadableError("has bytes in the other order than this machine's", "save it on a machine like this")
        main = read_pickle_at(head, machine.end)
        self.content = main.value
        self._places = self._locate_storages(main, read_pickle_at(head, main.end))

    def _locate_storages(self, main: PickleResult, keys: PickleResult) -> dict[str, tuple[int, int]]:
        """Where the numbers of each storage begin, and how many bytes they are."""
        sizes = collect_itemsizes(main.outside)
        places = {}
        position = keys.end
        for key in keys.value if isinstance(keys.value, list) else ():
            self._file.seek(position)
            count = int.from_bytes(self._file.read(8), "little")
            length = count * sizes[key] if isinstance(key, str) and key in sizes else self.size
            if position + 8 + length > self.size:
                raise UnreadableError("is damaged (it is cut off)")
            places[key] = (position + 8, length)
            position += 8 + length
        return places

    def size_of(self, key: str) -> int:
        """How many bytes the numbers of a storage are."""
        if key not in self._places:
            raise UnreadableError("is damaged (it mentions memory that is none)")
        return self._places[key][1]

    def read(self, key: str) -> bytearray:
        """The numbers of a storage, as many bytes as `size_of` says."""
        position, length = self._places[key]
        self._file.seek(position)
        numbers = bytearray(length)
        if self._file.readinto(numbers) != length:  # type: ignore[attr-defined]
            raise UnreadableError("is damaged (it is cut off)")
        return numbers
