"""The size of an image from its file's header, before it is decoded: a file of one megabyte may hold gigabytes of pixels."""

import re
from struct import error as EndsEarly
from struct import unpack_from

MOST_PIXELS = 100_000_000
"""Most pixels of an image that is decoded: 600 MB with three channels of 16 bits."""

_MOST_BEFORE_SIZE = 1 << 22  # bytes of colour profile, thumbnail and notes before a JPEG's size
_NETPBM = re.compile(rb"P[1-6](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})\s")


def image_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Rows and columns of a PNG, JPEG, BMP, TIFF, WebP or Netpbm file; None if it is none of these, or ends too early.

    Args:
        data: The file's bytes.
    """
    start = bytes(data[:16])
    try:
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return unpack_from(">II", data, 16)[::-1]
        if start.startswith(b"\xff\xd8"):
            return _of_jpeg(data)
        if start.startswith(b"BM"):
            width, height = unpack_from("<HH" if unpack_from("<I", data, 14)[0] == 12 else "<ii", data, 18)
            return abs(height), abs(width)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _of_tiff(data)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return _of_webp(data)
    except EndsEarly:
        return None
    found = _NETPBM.match(bytes(data[:65536]))
    return (int(found[2]), int(found[1])) if found else None


def _of_jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    """From the start-of-frame segment (ISO/IEC 10918-1, B.2.2)."""
    place = 2
    while place < _MOST_BEFORE_SIZE:
        fill, code = unpack_from(">BB", data, place)
        if fill != 0xFF or code == 0xFF:  # stray bytes between segments, which decoders skip; fill bytes
            place += 1
        elif code in (0xD9, 0xDA):
            return None
        elif code == 1 or 0xD0 <= code <= 0xD8:  # without a length
            place += 2
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            rows, columns = unpack_from(">HH", data, place + 5)
            return rows, columns
        else:
            place += 2 + max(2, unpack_from(">H", data, place + 2)[0])
    return None


def _of_tiff(data: bytes | memoryview) -> tuple[int, int] | None:
    """From the first directory (TIFF 6.0, section 2; BigTIFF): ImageWidth is tag 256, ImageLength 257."""
    order, big = "<" if data[0] == 0x49 else ">", 43 in (data[2], data[3])
    place = unpack_from(f"{order}Q", data, 8)[0] if big else unpack_from(f"{order}I", data, 4)[0]
    count, first, step = (
        (unpack_from(f"{order}Q", data, place)[0], 8, 20) if big else (unpack_from(f"{order}H", data, place)[0], 2, 12)
    )
    sizes: dict[int, int] = {}
    for entry in range(place + first, place + first + min(count, 1000) * step, step):
        tag, kind = unpack_from(f"{order}HH", data, entry)
        if tag in (256, 257) and kind in (1, 3, 4, 16):
            sizes[tag] = unpack_from(order + {1: "B", 3: "H", 4: "I", 16: "Q"}[kind], data, entry + (12 if big else 8))[0]
    return (sizes[257], sizes[256]) if len(sizes) == 2 else None


def _of_webp(data: bytes | memoryview) -> tuple[int, int] | None:
    """From the first chunk (RFC 9649): extended, lossless or lossy."""
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        low_w, high_w, low_h, high_h = unpack_from("<HBHB", data, 24)
        return (high_h << 16 | low_h) + 1, (high_w << 16 | low_w) + 1
    if kind == b"VP8L":
        (bits,) = unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        columns, rows = unpack_from("<HH", data, 26)
        return rows & 0x3FFF, columns & 0x3FFF
    return None
