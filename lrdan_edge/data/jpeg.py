"""The end of a JPEG image, found by its markers (ISO/IEC 10918-1, annex B)."""

import re

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""Any marker but RSTn; in a scan's data, 00 or RSTn follows each FF."""

_END, _NO_LENGTH = 0xD9, {0x01, 0xD8}  # the image ends; TEM and SOI have no length


def end_of_jpeg(data: bytes | memoryview) -> int | None:
    """The number of bytes of the JPEG image that data begin with; None if they end within the image.

    What follows the image does not matter: padding, as from the cameras of Raspberry Pi, or a second image. A thumbnail's own end
    marker does not count, because the segment that holds it is skipped by its length.

    Args:
        data: The bytes of a file, from its first marker on.
    """
    place = 2
    while found := _MARKER.search(data, place):
        place = found.end()
        code = data[place - 1]
        if code == _END:
            return place
        if code not in _NO_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return None
