"""Decodes MJPEG from its packets: FFmpeg fills the missing part of a truncated JPEG from the image before, and does not say so."""

import cv2
import numpy as np

from lrdan_edge.data.images import decode_image
from lrdan_edge.errors import DataError

_RAW = -1  # the value of CAP_PROP_FORMAT with which OpenCV delivers packets, uint8 [1, N]
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
        data = np.asarray(packet, np.uint8).tobytes()
        try:
            image = decode_image(data, "the frame")
        except DataError:
            self.incomplete = len(data)
            return False, None
        return True, cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image

    def get(self, propId: int, /) -> float:  # noqa: N803 - OpenCV's name
        """The value of a property."""
        return self._capture.get(propId)

    def release(self) -> None:
        """Close the capture."""
        self._capture.release()


def raw_jpeg(capture: cv2.VideoCapture) -> bool:
    """Whether a capture just opened contains MJPEG; it then delivers packets instead of images."""
    return int(capture.get(cv2.CAP_PROP_FOURCC)) == _MJPEG and capture.set(cv2.CAP_PROP_FORMAT, _RAW)
