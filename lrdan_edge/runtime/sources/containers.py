"""Checks without decoding, by the file's structure, whether a video file is complete."""

from pathlib import Path
from typing import BinaryIO, Literal

Kind = Literal["mp4", "avi", "matroska", "other"]

_SEGMENT = bytes.fromhex("18538067")  # Matroska element that holds everything (RFC 9559, section 5.1)


def kind_of(path: Path) -> Kind:
    """The container format, from the first bytes; ``other`` for formats that are not checked here."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        return "mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "matroska" if head[:4] == b"\x1a\x45\xdf\xa3" else "other"


def mp4_has_index(path: Path) -> bool:
    """Whether an MP4 has a complete ``moov`` box; a truncated recording has none (ISO/IEC 14496-12, section 8.2)."""
    end = path.stat().st_size
    with path.open("rb") as file:
        start = 0
        while start + 8 <= end:
            file.seek(start)
            size, name = int.from_bytes(file.read(4), "big"), file.read(4)
            if size == 1:
                size = int.from_bytes(file.read(8), "big")
            if name == b"moov":
                return start + size <= end
            if size < 8:  # 0: to the end of the file
                return False
            start += size
    return False


def matroska_is_truncated(path: Path) -> bool:
    """Whether a Matroska or WebM file is shorter than its header says; False if the header has no size (unfinished recordings)."""
    with path.open("rb") as file:
        file.seek(4)
        header = _length(file)
        if header is None:
            return False
        file.seek(header, 1)
        if file.read(4) != _SEGMENT:
            return False
        size = _length(file)
        return size is not None and file.tell() + size > path.stat().st_size


def _length(file: BinaryIO) -> int | None:
    """Read an EBML length: leading zeros of the first byte count the bytes that follow; all ones mean unknown (RFC 8794)."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    following = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] ^ (0x80 >> following)]) + file.read(following), "big")
    return None if value == (1 << 7 * (following + 1)) - 1 else value
