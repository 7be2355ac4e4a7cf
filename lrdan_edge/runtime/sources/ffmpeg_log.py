"""What FFmpeg writes about a stream that OpenCV does not report: refused logins, damaged images, another image size.

Only the capture process reads it: OpenCV writes it to standard output, which is the process's own there.
"""

import contextlib
import ctypes
import fcntl
import os
import re
from http import HTTPStatus

_PIPE = 1 << 20  # as much as Linux gives to any user; what does not fit is dropped, so that FFmpeg never waits
_LINE_BUFFERED = 1  # _IOLBF: without it, the C library keeps lines back
_DEBUG = "48"  # AV_LOG_DEBUG: key frames are written at this level

_LOGIN = re.compile(r"(?:method \w+ failed: |HTTP error )(40[13])")
# Lines of libavcodec and libavformat about images that they then conceal or leave out. Not all lines of level "error": cameras
# with SEI messages that FFmpeg does not understand write one for each frame.
_DAMAGE = re.compile(
    r"concealing \d+ DC, \d+ AC, \d+ MV errors in \w+ frame|error while decoding MB \d+ \d+|corrupt(?:ed)? macroblock"
    r"|Packet corrupt|RTP: missed \d+ packets|Frame num gap \d+ \d+|[Mm]issing reference picture|Could not find ref with POC -?\d+"
    r"|Error constructing the frame RPS|Invalid NAL unit size|Error splitting the input into NAL units|decode_slice_header error"
    r"|Error parsing NAL unit|First slice in a frame missing|no frame!"
)
_UNIT = "nal_unit_type: "
_KEY = re.compile(r"nal_unit_type: \d+\((?:IDR|CRA|BLA|Coded slice of an IDR)")
_FORMAT = re.compile(r"Format \w+ chosen by get_format")
_REORDERED = 4  # images that a decoder holds to bring them into order


class _Log:
    def __init__(self) -> None:
        self._source: int | None = None
        self._rest = b""

    def capture(self) -> None:
        self._source, target = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(target, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(self._source, False)
        os.set_blocking(target, False)
        for descriptor in (1, 2):
            os.dup2(target, descriptor)
        os.close(target)
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, _LINE_BUFFERED, ctypes.c_size_t(0))
        os.environ["OPENCV_FFMPEG_LOGLEVEL"] = _DEBUG

    def text(self) -> str:
        if self._source is None:
            return ""
        parts = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._source, _PIPE):
                parts.append(part)
        whole, _, self._rest = b"".join(parts).rpartition(b"\n")
        return whole.decode("utf-8", "replace")


_LOG = _Log()


def capture() -> None:
    """Take FFmpeg's log from now on, and with it this process's standard output and standard error. Call this before OpenCV is used."""
    _LOG.capture()


def new_text() -> str:
    """The lines written since the last call; empty in a process that does not `capture` them."""
    return _LOG.text()


def refused_login(text: str) -> str | None:
    """The status with which a server refused a login, as in ``401 Unauthorized``; None if it did not."""
    found = _LOGIN.search(text)
    return f"{found[1]} {HTTPStatus(int(found[1])).phrase}" if found else None


def is_other_format(text: str) -> bool:
    """Whether FFmpeg refused what a server sent because its format was not allowed."""
    return "Format not on whitelist" in text


class DecoderWatch:
    """Follows what FFmpeg writes about one connection, beside the images that arrive.

    After a damaged image, all that follow are built on it until the next key frame. What is written before the first image
    counts for nothing: a stream that is joined between key frames begins like that, and FFmpeg delivers no image of it.

    Attributes:
        damage: What is damaged, or None.
        reformatted: Whether the decoder has chosen an image format again, as it does when the image size changes. OpenCV then still
            scales images to the old size.
    """

    def __init__(self, threads: int) -> None:
        """Start with a new connection.

        Args:
            threads: The decoder's threads; each holds an image.
        """
        self.damage: str | None = None
        self.reformatted = False
        self._held = threads + _REORDERED
        self._begun = self._units = False
        self._left: int | None = None

    @property
    def has_key_frames(self) -> bool:
        """Whether FFmpeg writes when a key frame comes, as it does for H.264 and H.265."""
        return self._units

    def see(self, text: str, *, arrived: bool) -> bool:
        """Take the lines that were written while one image was read.

        Args:
            text: The lines.
            arrived: Whether an image came.

        Returns:
            Whether `damage` is new: the first damaged image since the last intact one.
        """
        self._units = self._units or _UNIT in text
        if not self._begun:
            self._begun = arrived
            return False
        was = self.damage
        for line in text.splitlines():
            if found := _DAMAGE.search(line):
                self.damage, self._left = self.damage or found[0], None
            elif self.damage is not None and self._left is None and _KEY.search(line):
                self._left = self._held
            self.reformatted = self.reformatted or _FORMAT.search(line) is not None
        if self._left is not None and arrived:
            self._left -= 1
            if self._left < 0:
                self.damage = self._left = None
        return was is None and self.damage is not None
