"""Images on standard input, one after the other, as ``cat *.png`` or ``ffmpeg -f image2pipe`` send them: JPEG and PNG."""

import threading
from collections.abc import Iterator
from io import BufferedReader

from lrdan_edge.errors import DataError, SourceError
from lrdan_edge.images import decode_image
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, 0xD9  # JPEG markers: entropy-coded data follows; the image ends
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RSTn, SOI
_LARGEST = 1 << 28  # bytes of one segment or chunk


class StandardInput(Source):
    """Images that a stream of bytes holds; one that cannot be decoded is a fault, one that is cut short ends the stream with one."""

    live = False
    fps: float | None = None
    frames: int | None = None

    def __init__(self, stream: BufferedReader, *, bit_depth: int = 16) -> None:
        """Read `stream` from where it is.

        Args:
            stream: Bytes, buffered.
            bit_depth: How many bits of 16-bit images are used.
        """
        self.uri = "-"
        self._stream, self._bit_depth = stream, bit_depth
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        """The images; see `Source`. Reading waits for whoever writes.

        Raises:
            SourceError: What comes is no image: where the next one begins is not known.
        """
        index = 0
        while not self._closed.is_set():
            name = f"image {index}"
            try:
                data = next_image(self._stream)
            except EOFError:
                yield CapturedFrame.missing("standard input ended within an image", index, self.uri, name)
                return
            if data is None or self._closed.is_set():
                return
            try:
                yield CapturedFrame.of(decode_image(data, name, self._bit_depth), index, self.uri, name)
            except DataError as error:
                yield CapturedFrame.missing(str(error), index, self.uri, name)
            index += 1

    def close(self) -> None:
        """See `Source.close`; a read that waits for the writer ends with its next image."""
        self._closed.set()


def next_image(stream: BufferedReader) -> bytes | None:
    """The bytes of the next JPEG or PNG file; None at the end.

    Args:
        stream: At the first byte of an image.

    Raises:
        EOFError: It ends within an image.
        SourceError: It holds something else.
    """
    start = stream.read(2)
    if not start:
        return None
    if start == _JPEG:
        return start + _rest_of_jpeg(stream)
    if start == _PNG[:2] and _exactly(stream, 6) == _PNG[2:]:
        return _PNG + _rest_of_png(stream)
    if len(start) < 2:
        raise EOFError
    raise SourceError(
        f"standard input holds neither JPEG nor PNG (it goes on with {start.hex(' ')}): send whole images of these"
    )


def _exactly(stream: BufferedReader, count: int) -> bytes:
    if count > _LARGEST:
        raise SourceError(f"standard input announces a piece of {count} bytes: that is no image")
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _rest_of_png(stream: BufferedReader) -> bytes:
    """Chunks (ISO/IEC 15948, 5.3): length, type, data, checksum; the last one is IEND."""
    parts = []
    while True:
        head = _exactly(stream, 8)
        parts += [head, _exactly(stream, int.from_bytes(head[:4], "big") + 4)]
        if head[4:] == b"IEND":
            return b"".join(parts)


def _rest_of_jpeg(stream: BufferedReader) -> bytes:
    """Segments (ISO/IEC 10918-1, annex B): marker and length, and after a scan's header data in which FF is followed by 00 or RSTn."""
    found = bytearray()
    while True:
        found += _up_to_marker(stream)
        found += (mark := _exactly(stream, 1))
        while mark == b"\xff":  # fill bytes
            found += (mark := _exactly(stream, 1))
        code = mark[0]
        if code == _END:
            return bytes(found)
        if code == 0 or code in _ALONE:
            continue
        length = _exactly(stream, 2)
        found += length + _exactly(stream, max(0, int.from_bytes(length, "big") - 2))


def _up_to_marker(stream: BufferedReader) -> bytes:
    """Entropy-coded data, up to and without the next FF."""
    parts = []
    while waiting := stream.peek():
        place = waiting.find(b"\xff")
        parts.append(stream.read(len(waiting) if place < 0 else place))
        if place >= 0:
            return b"".join(parts)
    raise EOFError
