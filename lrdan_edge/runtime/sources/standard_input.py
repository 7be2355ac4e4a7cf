"""JPEG and PNG images on standard input, one after the other, as ``cat *.png`` or ``ffmpeg -f image2pipe`` write them."""

import os
import select
import threading
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdan_edge.data.images import decode_with_form
from lrdan_edge.errors import DataError, SourceFormatError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source

if TYPE_CHECKING:
    from typing_extensions import Buffer

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_SCAN, _END = 0xDA, 0xD9  # JPEG markers: entropy-coded data follows; the image ends
_NO_LENGTH = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RSTn, SOI

MOST_BYTES = 1 << 28
"""Most bytes of one image."""


class StandardInput(Source):
    """Images in a stream of bytes. An image that cannot be decoded is a fault; a truncated image is a fault and ends the source."""

    live = False
    fps: float | None = None
    frames: int | None = None

    def __init__(self, descriptor: int = 0, *, bit_depth: int = 16) -> None:
        """Read from a file descriptor, from its current position.

        Args:
            descriptor: A pipe or file; it stays open.
            bit_depth: Bits used of 16-bit images.
        """
        self.uri = "-"
        self._pipe = _Pipe(descriptor)
        self._stream, self._bit_depth = BufferedReader(self._pipe), bit_depth
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield the images; see `Source`. Reading waits for the writer.

        Raises:
            SourceFormatError: The stream holds something other than images, so the start of the next image is unknown.
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
                image, form = decode_with_form(np.frombuffer(data, np.uint8), name, self._bit_depth)
                yield CapturedFrame.of(image, index, self.uri, name, form=form)
            except DataError as error:
                yield CapturedFrame.missing(str(error), index, self.uri, name, error)
            index += 1

    def close(self) -> None:
        """See `Source.close`; ends a read that waits for the writer."""
        self._closed.set()
        self._pipe.interrupt()


class _Pipe(RawIOBase):
    """A file descriptor; `interrupt` ends a read that waits for data."""

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
        """End reading permanently; callable from any thread."""
        os.eventfd_write(self._wake, 1)

    def __del__(self) -> None:
        os.close(self._wake)


def next_image(stream: "BufferedReader[Any]") -> bytes | None:
    """The bytes of the next JPEG or PNG file; None at the end.

    Args:
        stream: At the first byte of an image, or of zeros before it: some cameras pad their JPEGs.

    Raises:
        EOFError: The stream ends within an image.
        SourceFormatError: The stream holds something other than images.
    """
    _skip_padding(stream)
    start = stream.read(2)
    while len(start) == 2 and start[:1] == b"\xff" and start != _JPEG:  # fill bytes before a marker, or padding
        start = start[1:] + stream.read(1)
    if not start:
        return None
    image = _Image(stream, start)
    if len(start) < 2:
        raise EOFError
    if start == _JPEG:
        return _rest_of_jpeg(image)
    if start == _PNG[:2] and image.take(6) == _PNG[2:]:
        return _rest_of_png(image)
    raise SourceFormatError(
        f"standard input holds neither JPEG nor PNG (the next bytes are {start.hex(' ')})",
        "send complete images of these formats",
    )


class _Image:
    """The bytes of one image so far, at most `MOST_BYTES`."""

    def __init__(self, stream: "BufferedReader[Any]", start: bytes) -> None:
        self._stream = stream
        self.data = bytearray(start)

    def take(self, count: int) -> bytes:
        """Read `count` bytes.

        Raises:
            EOFError: The stream ends before.
            SourceFormatError: The image would be too large.
        """
        if len(self.data) + count > MOST_BYTES:
            raise SourceFormatError(
                f"standard input holds an image of more than {MOST_BYTES >> 20} MiB (it goes on for {count} bytes after "
                f"{len(self.data)})",
                "send smaller images",
            )
        data = self._stream.read(count)
        self.data += data
        if len(data) < count:
            raise EOFError
        return data

    def take_up_to_marker(self) -> None:
        """Read entropy-coded data up to the next FF, without it; raises as `take`."""
        while waiting := self._stream.peek():
            place = waiting.find(b"\xff")
            self.take(len(waiting) if place < 0 else place)
            if place >= 0:
                return
        raise EOFError


def _skip_padding(stream: "BufferedReader[Any]") -> None:
    """Skip zero bytes, at most as many as an image may have; what follows more of them is not an image."""
    skipped = 0
    while skipped < MOST_BYTES and (waiting := stream.peek(1)):
        zeros = len(waiting) - len(waiting.lstrip(b"\0"))
        stream.read(zeros)
        skipped += zeros
        if zeros < len(waiting):
            return


def _rest_of_png(image: _Image) -> bytes:
    """Read chunks up to IEND (ISO/IEC 15948, 5.3): length, type, data, checksum."""
    while True:
        head = image.take(8)
        image.take(int.from_bytes(head[:4], "big") + 4)
        if head[4:] == b"IEND":
            return bytes(image.data)


def _rest_of_jpeg(image: _Image) -> bytes:
    """Read segments up to EOI (ISO/IEC 10918-1, annex B): marker, length, data. In a scan's data, 00 or RSTn follows each FF."""
    while True:
        image.take_up_to_marker()
        image.take(1)
        while (mark := image.take(1)) == b"\xff":  # fill bytes
            pass
        code = mark[0]
        if code == _END:
            return bytes(image.data)
        if code != 0 and code not in _NO_LENGTH:
            image.take(max(0, int.from_bytes(image.take(2), "big") - 2))
