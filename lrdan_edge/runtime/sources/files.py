"""Image files as a source: a folder, a glob or one file."""

import glob
import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from lrdan_edge.data.images import list_images, natural_key, read_with_form
from lrdan_edge.data.listing import SUFFIXES, is_left_behind
from lrdan_edge.errors import DataError, SourceAddressError, SourceRefusedError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.native import quiet
from lrdan_edge.runtime.sources.rate_limiter import RateLimiter


def folder_images(folder: Path) -> list[Path]:
    """Images below `folder`, in natural order.

    Raises:
        SourceAddressError: The folder holds no images.
        SourceRefusedError: The folder cannot be read.
    """
    try:
        return list_images(folder)
    except DataError as error:
        kind = SourceRefusedError if isinstance(error.__cause__, OSError) else SourceAddressError
        raise kind(error.problem, error.fix, **error.values) from error


def glob_images(pattern: str) -> list[Path]:
    """Images that match `pattern`, in natural order.

    Raises:
        SourceAddressError: No file matches, or a matching file is not an image.
    """
    paths = sorted((Path(name) for name in glob.glob(pattern, recursive=True)), key=natural_key)  # noqa: PTH207 - also absolute
    paths = [path for path in paths if path.is_file() and not any(map(is_left_behind, path.parts))]
    if not paths:
        fix = "check the pattern, and quote it so that the shell does not expand it"
        raise SourceAddressError(f"no file matches {pattern!r}", fix)
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            kinds = ", ".join(sorted(SUFFIXES))
            raise SourceAddressError(f"{pattern!r} matches {path}, which is not an image ({kinds})", "narrow the pattern")
    return paths


def printable_name(name: str) -> str:
    """The name with � in place of bytes that are not UTF-8, because logs and verdict files cannot hold them."""
    return os.fsencode(name).decode("utf-8", "replace")


class ImageSource(Source):
    """Image files in a fixed order. A file that cannot be decoded is delivered as a fault."""

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
            folder: Frame names are relative to it; None: only the file's name.
            loop: Start again after the last one, until closed.
            rate: Images per second; None: as fast as they are taken.
            bit_depth: Bits used of 16-bit files.
        """
        self.uri = printable_name(uri)
        self.frames: int | None = None if loop else len(paths)
        names = (path.relative_to(folder).as_posix() if folder else path.name for path in paths)
        self._named = [(printable_name(name), path) for name, path in zip(names, paths, strict=True)]
        self.fps = rate
        self._loop, self._bit_depth = loop, bit_depth
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield the images; see `Source`."""
        rounds = itertools.repeat(self._named) if self._loop else [self._named]
        limiter = RateLimiter(self.fps, self._closed)
        with quiet:
            for index, (name, path) in enumerate(itertools.chain.from_iterable(rounds)):
                if self._closed.is_set() or not limiter.wait():
                    return
                yield self._capture(path, name, index)

    def _capture(self, path: Path, name: str, index: int) -> CapturedFrame:
        try:
            image, form = read_with_form(path, self._bit_depth)
        except DataError as error:
            return CapturedFrame.missing(printable_name(str(error)), index, self.uri, name, error)
        return CapturedFrame.of(image, index, self.uri, name, form=form)

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()
