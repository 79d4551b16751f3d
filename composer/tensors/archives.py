"""The records inside an archive that torch.save writes: a zip file that compresses nothing."""

from __future__ import annotations

import sys
import zlib
from typing import BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from composer.tensors.unreadable import SAVE_STATE_DICT_HINT, UnreadableError

ZIP_MAGIC = b"PK\x03\x04"

MAX_DIRECTORY_BYTES = 2**23
"""How many bytes the list of records may have. One has sixty, so this is of 140,000, which take half a second."""

_HEADER_SIZE, _ENCRYPTED_FLAG = 30, 1
"""How many bytes stand before the name of a record, and the flag of one that has a password."""

_END_MAGIC, _END_64_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"


class Archive:
    """The records of an archive by name, without the folder that they all lie in.

    Raises UnreadableError for one that is larger inside than it is: whose records are compressed, or overlap.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        self._file = file
        _check_directory(file, self.size)
        try:
            records = ZipFile(file).infolist()
        except (BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise UnreadableError("is damaged (its archive cannot be read)") from error
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise UnreadableError("is a program that torch.jit wrote", SAVE_STATE_DICT_HINT)
        if any(record.compress_type != ZIP_STORED for record in records) or self.size < sum(
            max(record.file_size, record.compress_size) for record in records
        ):
            raise UnreadableError("has records that are compressed, or overlap; torch.save writes none that do")
        self._folder = records[0].filename.split("/")[0] if records else ""
        self._records = {record.filename: record for record in records}
        if "byteorder" in self and self.read("byteorder") != sys.byteorder.encode():
            raise UnreadableError("has bytes in the other order than this machine's", "save it on a machine like this")

    def __contains__(self, name: str) -> bool:
        return f"{self._folder}/{name}" in self._records

    def size_of(self, name: str) -> int:
        """How many bytes a record has."""
        if name not in self:
            raise UnreadableError(f"is damaged, or no file that torch.save wrote (it has no {name})")
        return self._records[f"{self._folder}/{name}"].file_size

    def read(self, name: str) -> bytearray:
        """The bytes of a record, which are as many as `size_of` says."""
        content = bytearray(self.size_of(name))
        record = self._records[f"{self._folder}/{name}"]
        head = self._read_range(record.header_offset, _HEADER_SIZE)
        if head[:4] != ZIP_MAGIC or record.flag_bits & _ENCRYPTED_FLAG:
            raise UnreadableError(f"is damaged (its {name} cannot be read)")
        lengths = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        self._read_range(record.header_offset + _HEADER_SIZE + lengths, 0)
        if self._file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise UnreadableError(f"is damaged (its {name} is cut off)")
        # torch can be told to write no checksums. They are all zero then, and it looks at none when it reads.
        if record.CRC and zlib.crc32(content) != record.CRC:
            raise UnreadableError(f"is damaged (its {name} cannot be read)")
        return content

    def _read_range(self, position: int, count: int) -> bytes:
        """So many bytes of the file, or fewer; what is read next stands behind them."""
        self._file.seek(min(max(position, 0), self.size))
        return self._file.read(count)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise UnreadableError where the list of records, which zipfile reads whole, is too long, or is not at the end."""
    file.seek(max(0, size - 98))
    tail = file.read(98)
    if tail[-22:-18] != _END_MAGIC:
        raise UnreadableError("is damaged, or no file that torch.save wrote (it does not end as an archive does)")
    lengths = [int.from_bytes(tail[-10:-6], "little")]
    # A long list has its true length before the end, and whoever reads it need not look there.
    if tail[-42:-38] == _LOCATOR_MAGIC:
        true = int.from_bytes(tail[40:48], "little") if tail[:4] == _END_64_MAGIC else MAX_DIRECTORY_BYTES + 1
        lengths = [true, *(length for length in lengths if length != 2**32 - 1)]
    if max(lengths) > MAX_DIRECTORY_BYTES:
        raise UnreadableError(f"has a list of records of more than {MAX_DIRECTORY_BYTES:,} bytes")
