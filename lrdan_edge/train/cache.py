"""Training images, decoded once and kept on disk: memory-mapped, so that neither memory nor the next run's start suffers.

A cache is two files, ``<key>.json`` (what the images are like) and ``<key>-<layout>.npy`` (the images, fitted), where the key
is a hash over the images' contents and the decoder's version: other images never meet an old cache. Both are written under
another name and renamed, so that neither a killed nor a concurrent run leaves half of one.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrdan_edge.bundle.files import flush
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.data.images import Pixels, cut_frame, fit_frame, read_pixels, to_eight_bits

CACHE_VARIABLE = "LRDAN_CACHE"
MOST_BYTES = 4 << 30  # of all caches together; the least recently used go first
ABANDONED_S = 24 * 3600  # age of an unfinished file that no run can still be writing
_VERSION = 1
_BLOCK = 1 << 24


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a set of images is like.

    Attributes:
        sizes: Every (height, width) that occurs, with the index of the first image that has it.
        grey: Whether all of them are grey, as stored or by content.
        deep: How many have 16 bits per channel.
        peak: The largest value of those, 0 if there is none.
        checks: CRC-32 of each cached layout's images, by file name.
    """

    sizes: list[tuple[int, int, int]]
    grey: bool
    deep: int
    peak: int
    checks: dict[str, int]


@dataclass(frozen=True)
class Layout:
    """How image files become the networks' images.

    Attributes:
        spec: The networks and their geometry: the images are fitted to its frame, and cut as it says.
        bit_depth: How many bits of 16-bit images are used.
    """

    spec: ModelSpec
    bit_depth: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one of the networks' images."""
        return self.spec.height, self.spec.width, self.spec.channels

    @property
    def tiles(self) -> int:
        """How many of them a file gives."""
        return len(self.spec.tile_rows) * len(self.spec.tile_columns)

    @property
    def text(self) -> str:
        """For file names."""
        text = "x".join(map(str, self.shape)) + f"-{self.bit_depth}bit"
        if self.spec.geometry is None:
            return text
        return f"{text}-{hashlib.sha256(msgspec.json.encode(self.spec.geometry)).hexdigest()[:16]}"


class Frames:
    """Some of the images of a cache, read from disk as they are asked for."""

    def __init__(self, mapped: Tensor, chosen: Tensor) -> None:
        """Choose.

        Args:
            mapped: All images, uint8 [M, C, H, W].
            chosen: Which of them, in order, int64 [N].
        """
        self._mapped, self._chosen = mapped, chosen

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        _, channels, height, width = self._mapped.shape
        return len(self._chosen), channels, height, width

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, indices: "Tensor | slice") -> Tensor:
        """Images in memory, uint8 [n, C, H, W]."""
        return self._mapped[self._chosen[indices]]


def cache_folder() -> Path:
    """Where caches are kept: ``LRDAN_CACHE``, or ``lrdan-edge`` in the user's cache folder."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrdan-edge"


class ImageCache:
    """The cache of one list of images."""

    def __init__(self, paths: Sequence[Path], hashes: Sequence[str], folder: Path | None = None) -> None:
        """Name it.

        Args:
            paths: The images.
            hashes: Sha256 of each one's contents.
            folder: Where caches are kept; `cache_folder` by default.
        """
        self.paths, self._folder = list(paths), folder or cache_folder()
        said = "\n".join([f"{_VERSION} {cv2.__version__}", *hashes])
        self._key = hashlib.sha256(said.encode()).hexdigest()[:32]

    def facts(self) -> Facts | None:
        """What the images are like, if that is known."""
        try:
            return msgspec.json.decode((self._folder / f"{self._key}.json").read_bytes(), type=Facts)
        except (OSError, msgspec.DecodeError):
            return None

    def load(self, layout: Layout) -> Tensor | None:
        """The images in this layout, uint8 [N, C, H, W] (a file's tiles together), mapped copy-on-write, or None if they are not whole."""
        path, facts = self._path(layout), self.facts()
        if facts is None or path.name not in facts.checks:
            return None
        try:
            mapped: npt.NDArray[np.uint8] = np.load(path, mmap_mode="c", allow_pickle=False)
            os.utime(path)  # used just now
        except (OSError, ValueError, EOFError):
            return None
        if mapped.dtype != np.uint8 or mapped.shape != self._shape(layout) or _crc(mapped) != facts.checks[path.name]:
            return None
        return torch.from_numpy(mapped)

    def fill(self, layout: Layout) -> tuple[Tensor, Facts, str | None]:
        """Decode all images, in parallel, each fitted to `layout`.

        Returns:
            The images, uint8 [N, C, H, W]; what they are like; and why they could not be kept on disk, or None.

        Raises:
            DataError: An image is broken.
        """
        temporary = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            handle, name = mkstemp(suffix=".part", dir=self._folder)
            os.close(handle)
            temporary = Path(name)
            shape = self._shape(layout)
            os.truncate(temporary, 0)
            target: npt.NDArray[np.uint8] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                temporary, "w+", np.uint8, shape
            )
            with temporary.open("r+b") as file:
                os.posix_fallocate(
                    file.fileno(), 0, temporary.stat().st_size
                )  # a full disk is an error now, not a SIGBUS later
        except OSError as error:
            if temporary:
                temporary.unlink(missing_ok=True)
            images = np.empty(self._shape(layout), np.uint8)
            facts = self._decode(layout, images)
            return torch.from_numpy(images), facts, f"{self._folder} cannot be written ({error.strerror})"
        try:
            facts = self._decode(layout, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        try:
            target.flush()  # type: ignore[attr-defined]  # a memmap
            facts = self._keep(layout, temporary, facts, _crc(target))
        except OSError as error:
            return torch.from_numpy(target), facts, f"{self._folder} cannot be written ({error.strerror})"
        finally:
            temporary.unlink(missing_ok=True)
        mapped = self.load(layout)
        return (torch.from_numpy(target) if mapped is None else mapped), facts, None

    def _decode(self, layout: Layout, target: npt.NDArray[np.uint8]) -> Facts:
        """Every file into `target` [N, C, H, W], its tiles together; memory holds one file a thread."""

        def work(index: int) -> tuple[tuple[int, int], bool, int | None]:
            pixels = read_pixels(self.paths[index])
            frame = fit_frame(to_eight_bits(pixels, layout.bit_depth), layout.spec.frame_shape)
            first = index * layout.tiles
            target[first : first + layout.tiles] = cut_frame(frame, layout.spec).transpose(0, 3, 1, 2)
            height, width = pixels.shape[:2]
            return (height, width), is_grey(pixels), int(pixels.max()) if pixels.dtype == np.uint16 else None

        sizes: dict[tuple[int, int], int] = {}
        all_grey, peaks = True, []
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "decode") as pool:
            for index, (size, grey, peak) in enumerate(pool.map(work, range(len(self.paths)))):
                sizes.setdefault(size, index)
                all_grey = all_grey and grey
                peaks += [] if peak is None else [peak]
        return Facts([(*size, index) for size, index in sizes.items()], all_grey, len(peaks), max(peaks, default=0), {})

    def _keep(self, layout: Layout, temporary: Path, facts: Facts, crc: int) -> Facts:
        path, before = self._path(layout), self.facts()
        flush(temporary)
        os.replace(temporary, path)
        facts = msgspec.structs.replace(facts, checks={**(before.checks if before else {}), path.name: crc})
        handle, name = mkstemp(suffix=".part", dir=self._folder)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(facts))
        flush(Path(name))
        os.replace(name, self._folder / f"{self._key}.json")
        return facts

    def _sweep(self) -> None:
        """Make room for a new cache: drop what a killed run left, then the least recently used."""
        files = []
        for path in self._folder.iterdir():
            try:
                facts = path.stat()
            except FileNotFoundError:  # another run sweeps too
                continue
            if path.suffix == ".part" and time.time() - facts.st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)
            elif path.suffix == ".npy":
                files.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= MOST_BYTES:
                break
            path.unlink(missing_ok=True)  # who has it mapped keeps it
            total -= size

    def _path(self, layout: Layout) -> Path:
        return self._folder / f"{self._key}-{layout.text}.npy"

    def _shape(self, layout: Layout) -> tuple[int, int, int, int]:
        height, width, channels = layout.shape
        return len(self.paths) * layout.tiles, channels, height, width


def is_grey(image: Pixels) -> bool:
    """Whether an image has no colour, as stored or by content."""
    return image.ndim == 2 or bool((image == image[:, :, :1]).all())


def _crc(array: npt.NDArray[Any]) -> int:
    data, crc = array.data.cast("B"), 0
    for start in range(0, len(data), _BLOCK):
        crc = zlib.crc32(data[start : start + _BLOCK], crc)
    return crc
