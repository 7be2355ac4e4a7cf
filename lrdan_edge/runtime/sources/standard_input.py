"""Images on standard input, one after the other, as ``cat *.png`` or ``ffmpeg -f image2pipe`` send them: JPEG and PNG."""

import os
import select
import threading
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any

from lrdan_edge.data.images import decode_image
from lrdan_edge.errors import DataError, SourceError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

if TYPE_CHECKING:
    from typing_extensions import Buffer

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, 0xD9  # JPEG markers: entropy-coded data follows; the image ends
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RSTn, SOI
_LARGEST = 1 << 28  # bytes of one segment or chunk


class StandardInput(Source):
    """Images that a stream of bytes holds; one that cannot be decoded is a fault, one that is cut short ends the stream with one."""

    live = False
    fps: float | None = None
    frames: int | None = None

    def __init__(self, descriptor: int = 0, *, bit_depth: int = 16) -> None:
        """Read from where it is.

        Args:
            descriptor: File descriptor of a pipe or file; it stays open.
            bit_depth: How many bits of 16-bit images are used.
        """
        self.uri = "-"
        self._pipe = _Pipe(descriptor)
        self._stream, self._bit_depth = BufferedReader(self._pipe), bit_depth
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
                if self._closed.is_set():
                    return
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
        """See `Source.close`; a read that waits for the writer ends at once."""
        self._closed.set()
        self._pipe.interrupt()


class _Pipe(RawIOBase):
    """A file descriptor whose reading ends when it is told to, though nobody writes."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll = select.poll()
        for one in (descriptor, self._wake):
            self._poll.register(one, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer", /) -> int:
        if self._wake in dict(self._poll.poll()):
            return 0
        return os.readv(self._descriptor, [buffer])

    def interrupt(self) -> None:
        """End reading, now and from now on; from any thread."""
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        os.close(self._wake)


def next_image(stream: "BufferedReader[Any]") -> bytes | None:
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


def _rest_of_png(stream: "BufferedReader[Any]") -> bytes:
    """Chunks (ISO/IEC 15948, 5.3): length, type, data, checksum; the last one is IEND."""
    parts = []
    while True:
        head = _exactly(stream, 8)
        parts += [head, _exactly(stream, int.from_bytes(head[:4], "big") + 4)]
        if head[4:] == b"IEND":
            return b"".join(parts)


def _rest_of_jpeg(stream: "BufferedReader[Any]") -> bytes:
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


def _up_to_marker(stream: "BufferedReader[Any]") -> bytes:
    """Entropy-coded data, up to and without the next FF."""
    parts = []
    while waiting := stream.peek():
        place = waiting.find(b"\xff")
        parts.append(stream.read(len(waiting) if place < 0 else place))
        if place >= 0:
            return b"".join(parts)
    raise EOFError
