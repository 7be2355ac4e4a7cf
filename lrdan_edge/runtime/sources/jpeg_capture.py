"""Decodes MJPEG from its packets: FFmpeg fills the missing part of a truncated JPEG from the image before, and does not say so."""

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.data.images import decode_image
from lrdan_edge.data.orientation import turned
from lrdan_edge.errors import DataError

_RAW = -1  # the value of CAP_PROP_FORMAT with which OpenCV delivers packets, uint8 [1, N]
_START = b"\xff\xd8"
_MJPEG = cv2.VideoWriter.fourcc(*"MJPG")


class JpegCapture:
    """A capture of FFmpeg's that delivers JPEG packets, checked and decoded like image files."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        """Take a capture that `raw_jpeg` has prepared."""
        self._capture = capture
        self.incomplete: int | None = None
        """Bytes of the last packet if it is not a complete image, otherwise None."""

    def read(self) -> tuple[bool, object]:
        """Whether a complete image came, and the image, uint8 [H, W, 3]."""
        self.incomplete = None
        arrived, packet = self._capture.read()
        if not arrived:
            return False, None
        data, orientation = _upright(np.asarray(packet, np.uint8))
        try:
            image = decode_image(data, "the frame")
        except DataError:
            self.incomplete = len(data)
            return False, None
        return True, turned(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image, orientation)

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The value of a property."""
        return self._capture.get(propId)

    def release(self) -> None:
        """Close the capture."""
        self._capture.release()


def _upright(packet: npt.NDArray[np.uint8]) -> tuple[bytes, int]:
    """The bytes of a packet, and how its image must be turned, as an EXIF orientation.

    By a video's rotation OpenCV turns the row of bytes like an image: by 90° it becomes a column, anticlockwise or by 180° it is
    reversed. That tells the rotation whatever its sign means, which depends on the versions of OpenCV and FFmpeg.
    """
    column, data = packet.shape[0] > 1, packet.tobytes()
    if data[:2] != _START and data[:-3:-1] == _START:
        return data[::-1], 8 if column else 3
    return data, 6 if column else 1


def raw_jpeg(capture: cv2.VideoCapture) -> bool:
    """Whether a capture just opened contains MJPEG; it then delivers packets instead of images."""
    return int(capture.get(cv2.CAP_PROP_FOURCC)) == _MJPEG and capture.set(cv2.CAP_PROP_FORMAT, _RAW)
