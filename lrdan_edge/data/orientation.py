"""The orientation that an image file records (EXIF tag 274), and pixels turned by it.

Phones, and some cameras, store every photograph as the sensor sees it, and write beside it how to turn it upright.
"""

from struct import error as EndsEarly
from struct import unpack_from
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

UPRIGHT = 1
IN_WORDS = {
    2: "mirrored left to right",
    3: "turned by 180°",
    4: "mirrored top to bottom",
    5: "mirrored, then turned by 90° anticlockwise",
    6: "turned by 90° clockwise",
    7: "mirrored, then turned by 90° clockwise",
    8: "turned by 90° anticlockwise",
}
"""What an orientation asks for; 1 asks for nothing."""

_TAG = 274
_SHORT = 3
_MOST_ENTRIES = 1000
_MOST_BEFORE = 1 << 22  # bytes of colour profile, thumbnail and notes before the pixels


def orientation_of(data: bytes | memoryview) -> int:
    """The orientation, 1 to 8, that a JPEG, PNG, WebP or TIFF file records; 1 where it records none that is valid.

    Args:
        data: The file's bytes.
    """
    start = bytes(data[:16])
    try:
        if start.startswith(b"\xff\xd8"):
            return _in_jpeg(data)
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _in_chunks(data, 8, b"eXIf", png=True)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return _in_chunks(data, 12, b"EXIF", png=False)
        if is_tiff(data):
            return _in_tiff(memoryview(data))
    except EndsEarly:
        pass
    return UPRIGHT


def is_tiff(data: bytes | memoryview) -> bool:
    """Whether a file is a TIFF, which OpenCV turns itself while it decodes."""
    return bytes(data[:4]) in (b"II*\0", b"MM\0*")


def turned(image: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """The pixels as they are meant to be seen.

    Args:
        image: [H, W] or [H, W, C], as stored.
        orientation: 1 to 8.

    Returns:
        The same shape, or [W, H] for orientations 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        image = np.asarray(cv2.transpose(image))
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else np.asarray(cv2.flip(image, flip))


def _in_jpeg(data: bytes | memoryview) -> int:
    """From the first segment APP1 that holds EXIF (CIPA DC-008, 4.7.2)."""
    place = 2
    while place < _MOST_BEFORE:
        fill, code, length = unpack_from(">BBH", data, place)
        if fill != 0xFF or code == 0xFF:
            place += 1
        elif code in (0xD9, 0xDA):
            break
        elif code == 1 or 0xD0 <= code <= 0xD8:
            place += 2
        else:
            if code == 0xE1 and bytes(data[place + 4 : place + 10]) == b"Exif\0\0":
                return _in_tiff(memoryview(data)[place + 10 : place + 2 + length])
            place += 2 + max(2, length)
    return UPRIGHT


def _in_chunks(data: bytes | memoryview, place: int, wanted: bytes, *, png: bool) -> int:
    """From a chunk of a PNG (length, type, data, checksum) or a WebP (type, length, data)."""
    while place < len(data):
        name, length = unpack_from(">I4s", data, place)[::-1] if png else unpack_from("<4sI", data, place)
        if name == wanted:
            part = memoryview(data)[place + 8 : place + 8 + length]
            return _in_tiff(part[6:] if bytes(part[:6]) == b"Exif\0\0" else part)
        place += 8 + length + (4 if png else length % 2)
    return UPRIGHT


def _in_tiff(data: memoryview) -> int:
    """From the first directory (TIFF 6.0, section 2)."""
    if not is_tiff(data):
        return UPRIGHT
    order = "<" if data[0] == 0x49 else ">"
    (place,) = unpack_from(f"{order}I", data, 4)
    (count,) = unpack_from(f"{order}H", data, place)
    for entry in range(place + 2, place + 2 + 12 * min(count, _MOST_ENTRIES), 12):
        tag, kind = unpack_from(f"{order}HH", data, entry)
        if tag == _TAG and kind == _SHORT:
            (value,) = unpack_from(f"{order}H", data, entry + 8)
            return value if value in IN_WORDS else UPRIGHT
    return UPRIGHT
