"""A watched folder, into which a camera or another program writes images: each is delivered once it has settled.

The folder is listed again and again, because change notifications are silent on network file systems.
"""

import errno
import itertools
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from lrdan_edge.data.images import natural_key, read_with_form
from lrdan_edge.data.listing import SUFFIXES, is_left_behind
from lrdan_edge.errors import DataError, SourceAddressError, SourceError, SourceRefusedError
from lrdan_edge.runtime.sources.base import CapturedFrame, Source
from lrdan_edge.runtime.sources.files import printable_name
from lrdan_edge.runtime.sources.native import quiet

SETTLE_S = 0.5
_UPLOADING = frozenset({".crdownload", ".filepart", ".part", ".partial", ".temp", ".tmp"})
_BUSY = 0.1  # fraction of the time that listing may take
_MOST_BEFORE = 4
_LONG_S = 60.0  # a file that is written for longer is a fault: nobody would notice one that never settles


class _Stamp(NamedTuple):
    """What changes when a file is written."""

    inode: int
    size: int
    modified_ns: int


@dataclass
class _Waiting:
    """A file that may still be written.

    Attributes:
        stamp: How it looked last.
        first: When it was seen first.
        since: Since when it looks so.
        again: Whether it was delivered before.
        failed: Whether it could not be decoded.
        told: Whether a fault has said that it is written for too long.
    """

    stamp: _Stamp
    first: float
    since: float
    again: bool
    failed: bool = False
    told: bool = False


class HotFolder(Source):
    """Images that appear in a folder or below it, in the order in which they settle, until `close`.

    A file has settled when its size and time have not changed for a while; what cannot be decoded then may still be on its way, and
    is a fault only after a longer time. Files with temporary names and hidden ones are skipped.
    """

    live = False
    fps: float | None = None
    frames: int | None = None

    def __init__(
        self,
        folder: Path,
        *,
        judge_existing: bool,
        settle_s: float = SETTLE_S,
        damaged_s: float = 10.0,
        wait: bool = False,
        bit_depth: int = 16,
    ) -> None:
        """Begin to watch: what is not there yet is new.

        Args:
            folder: The folder.
            judge_existing: Whether images that are there now are delivered too.
            settle_s: Seconds without a change after which a file has settled.
            damaged_s: Seconds without a change after which a file that cannot be decoded is a fault.
            wait: Wait for a folder that does not exist yet.
            bit_depth: Bits used of 16-bit files.

        Raises:
            SourceAddressError: The folder does not exist.
            SourceRefusedError: It cannot be read.
        """
        self.uri = f"watch:{printable_name(str(folder))}"
        self._folder, self._settle_s, self._damaged_s = folder, settle_s, max(settle_s, damaged_s)
        self._bit_depth = bit_depth
        self._closed = threading.Event()
        self._waiting: dict[str, _Waiting] = {}
        self._known: dict[str, _Stamp] = {}
        self._before: dict[tuple[int, int], dict[str, _Stamp]] = {}  # what was known of folders that were in its place
        self._place: tuple[int, int] | None = None
        self._problem: str | None = None
        self._replaced = False
        self._unread: dict[str, str] = {}  # paths that the last listing could not read, and why
        self._told: set[str] = set()
        self._gone: set[_Stamp] = set()  # of known files that the last listing has not found
        self._listing_s = 0.0
        self._index = itertools.count()
        try:
            found = self._list()
        except FileNotFoundError as error:
            if not wait:
                raise SourceAddressError(f"the folder {folder} does not exist", "make it, or give {wait:on}") from error
        except OSError as error:
            raise SourceRefusedError(f"{folder} cannot be read ({error.strerror})", "check its permissions") from error
        else:
            if not judge_existing:
                self._known = found

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Yield the images as they settle; see `Source`."""
        while not self._closed.is_set():
            yield from self._look()
            if self._closed.wait(max(self._settle_s / 2, self._listing_s / _BUSY)):
                return

    def close(self) -> None:
        """See `Source.close`."""
        self._closed.set()

    def _look(self) -> Iterator[CapturedFrame]:
        """List the folder once, and yield what has settled."""
        started = time.monotonic()
        try:
            found = self._list()
        except OSError as error:
            if self._problem != (problem := str(error.strerror)):
                self._problem = problem
                yield self._missing_folder(f"it cannot be read ({problem})")
            return
        if self._replaced and self._problem is None:
            yield self._missing_folder("another folder or file system is in its place")
        self._problem, self._replaced = None, False
        now = time.monotonic()
        self._listing_s = now - started
        for path, why in self._unread.items():
            if path not in self._told:
                yield self._missing(path, f"cannot be read ({why}); images may be missed")
        self._told = set(self._unread)
        yield from self._compare(found, now)
        ready = [path for path, one in self._waiting.items() if self._due(one, now)]
        for path in sorted(ready, key=lambda path: (self._waiting[path].stamp.modified_ns, natural_key(Path(path)))):
            if self._closed.is_set():
                return
            yield from self._read(path, now)

    def _due(self, one: _Waiting, now: float) -> bool:
        return now - one.since >= (self._damaged_s if one.failed else self._settle_s)

    def _missing_folder(self, why: str) -> CapturedFrame:
        error = SourceError(f"{self.uri}: {why}; images may be missed")
        index = next(self._index)
        return CapturedFrame.missing(str(error), index, self.uri, f"folder {index}", error)

    def _compare(self, found: dict[str, _Stamp], now: float) -> Iterator[CapturedFrame]:
        """Note files that are new or have changed, and yield faults for those that vanished before they were read."""
        inodes = {stamp.inode: stamp.size for stamp in found.values()}
        unread = tuple(self._unread)
        for path in [path for path in self._waiting if path not in found and not path.startswith(unread)]:
            gone = self._waiting.pop(path)
            if inodes.get(gone.stamp.inode, -1) < gone.stamp.size:  # else it was renamed
                yield self._missing(path, "was deleted before it was judged")
        before, self._gone = self._gone, set()
        for path in [path for path in self._known if path not in found and not path.startswith(unread)]:
            self._gone.add(self._known.pop(path))
        moved = before | self._gone  # or deleted; a listing may miss both places of a file that is moved meanwhile
        for path, stamp in found.items():
            one, known = self._waiting.get(path), self._known.get(path)
            if one is not None and one.stamp != stamp:
                one.stamp, one.since, one.failed = stamp, now, False
                if now - one.first > _LONG_S and not one.told:
                    one.told = True
                    yield self._missing(path, f"has been written to for {_LONG_S:g} s, and is not judged until it settles")
            elif one is None and (stamp in moved or stamp in (known, *(other.get(path) for other in self._before.values()))):
                self._known[path] = stamp
            elif one is None:
                self._waiting[path] = _Waiting(stamp, now, now, again=known is not None)

    def _read(self, path: str, seen: float) -> Iterator[CapturedFrame]:
        """Yield a settled image, or a fault; nothing if it is being written again."""
        one, file = self._waiting[path], self._folder / path
        try:
            with quiet:
                image, form = read_with_form(file, self._bit_depth)
            error = None
        except DataError as failed:
            image, form, error = None, None, failed
        try:
            found = file.stat()
        except FileNotFoundError:
            return  # the next listing says that it was deleted
        except OSError:
            found = None
        if found is not None and _stamp(found) != one.stamp:
            return
        if error is not None and time.monotonic() - one.since < self._damaged_s:
            one.failed = True
            return
        del self._waiting[path]
        self._known[path] = one.stamp
        name = printable_name(path) + (" (written again)" if one.again else "")
        if image is None:
            problem = printable_name(str(error))
            yield CapturedFrame.missing(problem, next(self._index), self.uri, name, error)
            return
        waited_ns = round((time.monotonic() - seen) * 1e9)
        yield CapturedFrame.of(image, next(self._index), self.uri, name, time.monotonic_ns() - waited_ns, form=form)

    def _missing(self, path: str, why: str) -> CapturedFrame:
        error = DataError(f"{self._folder / path} {why}")
        return CapturedFrame.missing(printable_name(str(error)), next(self._index), self.uri, printable_name(path), error)

    def _list(self) -> dict[str, _Stamp]:
        """The images below the folder, by their paths in it; raises OSError if the folder itself cannot be read."""
        place = self._folder.stat()
        identity = (place.st_dev, place.st_ino)
        found: dict[str, _Stamp] = {}
        unread: dict[str, str] = {}
        folders = [""]
        while folders:
            below = folders.pop()
            try:
                with os.scandir(self._folder / below) as entries:
                    for entry in entries:
                        try:
                            _list_entry(entry, path := f"{below}{entry.name}", found, folders)
                        except OSError as error:
                            _note_unread(path, error, unread)
            except OSError as error:
                if not below:
                    raise
                _note_unread(below, error, unread)
        self._unread = unread
        if self._place not in (None, identity):
            self._exchange(identity)
        self._place = identity
        return found

    def _exchange(self, identity: tuple[int, int]) -> None:
        """Set aside what is known of the folder before: it may be the same one, mounted again later."""
        self._replaced = True
        if self._place is not None and self._known:
            self._before[self._place] = self._known
        self._known = self._before.pop(identity, {})
        while len(self._before) > _MOST_BEFORE:
            del self._before[next(iter(self._before))]


def _list_entry(entry: "os.DirEntry[str]", path: str, found: dict[str, _Stamp], folders: list[str]) -> None:
    if entry.name.startswith(".") or is_left_behind(entry.name):
        return
    if entry.is_dir(follow_symlinks=False):
        folders.append(f"{path}/")
    elif not _UPLOADING.isdisjoint(suffixes := [suffix.lower() for suffix in Path(entry.name).suffixes]):
        return
    elif suffixes and suffixes[-1] in SUFFIXES and entry.is_file():
        found[path] = _stamp(entry.stat())


def _note_unread(path: str, error: OSError, unread: dict[str, str]) -> None:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # else it was deleted since, or is a link to nothing
        unread[path] = error.strerror or type(error).__name__


def _stamp(found: os.stat_result) -> _Stamp:
    return _Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def open_hot_folder(uri: str, *, damaged_s: float, wait: bool, bit_depth: int) -> HotFolder:
    """Open ``watch:DIR?existing=judge``; ``settle=SECONDS`` may follow.

    Args:
        uri: The address.
        damaged_s: See `HotFolder`.
        wait: See `HotFolder`.
        bit_depth: See `HotFolder`.

    Raises:
        SourceAddressError: The folder does not exist, or a setting is not valid.
        SourceRefusedError: The folder cannot be read.
    """
    path, _, query = uri.removeprefix("watch:").partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    existing, settle = settings.pop("existing", None), settings.pop("settle", str(SETTLE_S))
    if settings or not path:
        raise SourceAddressError(
            f"{uri} is not a watched folder", "write watch:DIR?existing=skip (or judge), &settle=SECONDS if needed"
        )
    if existing not in ("judge", "skip"):
        problem = f"{uri} does not say what to do with images that are in the folder already"
        raise SourceAddressError(problem, "write watch:{path}?existing=judge or watch:{path}?existing=skip", path=path)
    try:
        settle_s = float(settle)
    except ValueError:
        settle_s = math.nan
    if not 0.02 <= settle_s <= 3600:
        raise SourceAddressError(f"settle={settle} is not a number of seconds from 0.02 to 3600", "write settle=0.5")
    given = {"settle_s": settle_s, "damaged_s": damaged_s}
    return HotFolder(Path(path), judge_existing=existing == "judge", wait=wait, bit_depth=bit_depth, **given)
