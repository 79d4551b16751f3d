"""What a file of weights is looked at for before torch opens it. No torch here."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile

_ZIP = b"PK\x03\x04"


def check_archive(path: Path) -> None:
    """Raise ValueError for an archive that is larger inside than it is: torch compresses nothing, and reads it whole.

    A file that is no archive, or a damaged one, is left for torch to judge.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return
    try:
        with ZipFile(path) as archive:
            records = archive.infolist()
    except (BadZipFile, NotImplementedError, ValueError):
        return
    compressed = any(record.compress_type != ZIP_STORED for record in records)
    if compressed or sum(record.file_size for record in records) > path.stat().st_size:
        raise ValueError("its records are compressed, or overlap; torch.save writes none that do")
