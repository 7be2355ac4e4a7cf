"""Images on disk: a folder, a glob, one file."""

import glob
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from lrdan_edge.data.images import SUFFIXES, list_images, natural_key, read_image
from lrdan_edge.errors import DataError, SourceError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.native import quiet
from lrdan_edge.runtime.sources.rate_limiter import Pace


def folder_images(folder: Path) -> list[Path]:
    """Images below `folder`, in natural order.

    Raises:
        SourceError: It holds none, or cannot be read.
    """
    try:
        return list_images(folder)
    except DataError as error:
        raise SourceError(str(error)) from error
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read ({error.strerror}): check its permissions") from error


def glob_images(pattern: str) -> list[Path]:
    """Images that match `pattern`, in natural order.

    Raises:
        SourceError: Nothing matches, or something that is no image.
    """
    paths = sorted((Path(name) for name in glob.glob(pattern, recursive=True)), key=natural_key)  # noqa: PTH207 - also absolute
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise SourceError(f"no file matches {pattern!r}: check the pattern, and quote it so that the shell leaves it alone")
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise SourceError(
                f"{pattern!r} matches {path}, which is no image ({', '.join(sorted(SUFFIXES))}): narrow the pattern"
            )
    return paths


def _printable(name: str) -> str:
    """The name with � for bytes that are not UTF-8: no log and no verdict could be written with them."""
    return os.fsencode(name).decode("utf-8", "replace")


class ImageSource(Source):
    """Image files in a fixed order; one that cannot be decoded is delivered as a fault, and the next follows."""

    live = False

    def __init__(
        self,
        uri: str,
        paths: list[Path],
        *,
        folder: Path | None = None,
        loop: bool = False,
        rate: float | None = None,
        bit_depth: int = 16,
    ) -> None:
        """Deliver `paths` in their order.

        Args:
            uri: The address, for display.
            paths: The files, at least one.
            folder: Names are relative to it; the bare file names when None.
            loop: Start again after the last one, until closed.
            rate: So many images per second; None: as fast as they are taken.
            bit_depth: How many bits of 16-bit files are used.
        """
        self.uri = _printable(uri)
        self.frames: int | None = None if loop else len(paths)
        names = (path.relative_to(folder).as_posix() if folder else path.name for path in paths)
        self._named = [(_printable(name), path) for name, path in zip(names, paths, strict=True)]
        self.fps = rate
        self._loop, self._bit_depth = loop, bit_depth
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        """The images; see `Source`."""
        rounds = itertools.repeat(self._named) if self._loop else [self._named]
        pace = Pace(self.fps, self._closed)
        with quiet:
            for index, (name, path) in enumerate(itertools.chain.from_iterable(rounds)):
                if self._closed.is_set():
                    return
                if not pace.wait():
                    return
                yield self._capture(path, name, index)

    def _capture(self, path: Path, name: str, index: int) -> CapturedFrame:
        try:
            image = read_image(path, self._bit_depth)
        except DataError as error:
            return CapturedFrame.missing(_printable(str(error)), index, self.uri, name)
        return CapturedFrame.of(image, index, self.uri, name)

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()
