"""A file of lines that is only appended to, and survives its disk."""

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path

from lrdan_edge.errors import DataError
from lrdan_edge.runtime.sinks.lock import OutputLock

_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
MOST_PENDING = 1 << 18
"""Bytes written since the last sync after which another one is due: they are kept in memory."""


class AppendedFile:
    """Appends whole lines, and locks the file's folder. If the file is deleted, or moved away, or its disk comes back, a new one is made.

    After a failed ``fdatasync`` the kernel may have dropped what it could not write, and the next call succeeds all the same. Lines
    are therefore kept until a sync has succeeded. After one that failed, the file is opened again and they are written again, in
    their place.
    """

    def __init__(self, path: Path, *, truncate: bool, keep: bool) -> None:
        """Open the file; its folder is made if missing.

        Args:
            path: The file.
            truncate: Remove what it holds.
            keep: Keep lines until `sync`; False if it is never called.

        Raises:
            OSError: The folder cannot be written.
            DataError: Another run writes into the folder.
        """
        self._path, self._keep = path, keep
        self._lock: OutputLock | None = None
        self._file: io.FileIO | None = None
        self._identity: tuple[int, int] | None = None
        self._pending = bytearray()
        self._start = 0  # where they begin in the file
        try:
            self._open(truncate=truncate)
        except BaseException:
            self.close()
            raise

    @property
    def due(self) -> bool:
        """Whether so much waits for the disk that it is time for `sync`."""
        return len(self._pending) >= MOST_PENDING

    def append(self, line: bytes) -> None:
        """Append a whole line, or nothing.

        Raises:
            OSError: It cannot be written; the next call opens the file again, because the disk may be another one by then.
        """
        try:
            file = self._present()
            size = os.fstat(file.fileno()).st_size
            if file.write(line) != len(line):  # the disk is full: remove the incomplete line
                os.ftruncate(file.fileno(), size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        except OSError as error:
            self._close_file()
            error.filename = str(self._path)
            raise
        if not self._keep:
            return
        if size != self._start + len(self._pending):  # logrotate has copied the file, and truncated it
            self._pending.clear()
            self._start = size
        self._pending += line

    def sync(self) -> None:
        """Wait until the disk has every line.

        Raises:
            OSError: It may not have them; the next call writes them again.
        """
        descriptor = (self._file or self._present()).fileno()
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self._drop_file()
            lines = self._pending.count(b"\n")
            problem = f"{error.strerror}: the disk may not have the last {lines} lines" if lines else error.strerror
            raise OSError(error.errno, problem, str(self._path)) from error
        self._synced()

    def close(self) -> None:
        """Close the file, and free the folder."""
        self._drop_file()
        if self._lock is not None:
            self._lock.release()

    def _synced(self) -> None:
        self._start += len(self._pending)
        self._pending.clear()

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _close_file(self) -> None:
        """Close a file that may have been moved away; what cannot be synced is written again into the next one."""
        if self._file is not None and self._pending:
            with suppress(OSError):
                os.fdatasync(self._file.fileno())
                self._synced()
        self._drop_file()

    def _present(self) -> io.FileIO:
        """The open file; it is opened again if another file, or none, has its name now."""
        if self._file is not None:
            try:
                if os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                    return self._file
            except FileNotFoundError as error:
                raise OSError(errno.ENOENT, "it was deleted", str(self._path)) from error
            self._close_file()
        return self._open(truncate=False)

    def _open(self, *, truncate: bool) -> io.FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._lock is None or not self._lock.holds():
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.release()
            try:
                self._lock = OutputLock(self._path.parent)
            except DataError as error:
                if lock is None:
                    raise
                raise OSError(errno.EAGAIN, error.problem, str(self._path)) from error
        if not truncate and self._path.exists():
            _cut_unfinished_line(self._path)
        file = io.FileIO(os.open(self._path, _APPENDING | (os.O_TRUNC if truncate else 0), 0o666), "ab")
        try:
            if self._pending:
                self._write_again(os.fstat(file.fileno()))
        except OSError:
            file.close()
            raise
        found = os.fstat(file.fileno())
        self._file, self._identity = file, (found.st_dev, found.st_ino)
        return file

    def _write_again(self, found: os.stat_result) -> None:
        """Write what waits for the disk in its place of the same file, or at the end of another one."""
        if (found.st_dev, found.st_ino) != self._identity or found.st_size < self._start:
            self._start = found.st_size
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # in O_APPEND, pwrite would append
        try:
            place, rest = self._start, bytes(self._pending)
            while rest:
                written = os.pwrite(descriptor, rest, place)
                place, rest = place + written, rest[written:]
        finally:
            os.close(descriptor)


def _cut_unfinished_line(path: Path) -> None:
    with path.open("rb+") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            if (newline := file.read(end - start).rfind(b"\n")) >= 0:
                end = start + newline + 1
                break
            end = start
        if end != size:
            file.truncate(end)
