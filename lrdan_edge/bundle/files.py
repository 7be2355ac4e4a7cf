"""Files below a folder whose contents nobody vouches for: opened, replaced and removed without following a symbolic link.

A bundle may come from a stranger, with links, FIFOs or devices where its files should be. So every name is resolved from the
folder's descriptor down, one component at a time (openat with O_NOFOLLOW): what is swapped between a check and its use leads
nowhere else. Only regular files are opened, and none is written in place: new bytes go into a new file that is then renamed, so
a hard link's other name keeps its content. The folder itself may be reached through links: its path is the user's own choice.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _FOLDER | os.O_NOFOLLOW
_NO_WAIT = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO put there after the check must not block
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_BYTES = 1 << 28
"""The largest file that is read whole without a manifest that says its size."""

_DEEPEST = 8  # folders in a folder to remove; the toolkit makes one level

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class UnexpectedKindError(OSError):
    """The entry is not of the expected kind (regular file or folder); ``strerror`` says what it is."""


class Folder:
    """A folder held open. Names are relative POSIX paths below it; an OSError names the full path."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            OSError: It cannot be opened, or is not a folder.
        """
        self.path = path
        self._descriptor = os.open(path, _FOLDER)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close it."""
        os.close(self._descriptor)

    def open(self, name: str) -> BinaryIO:
        """Open a regular file for reading.

        Raises:
            OSError: It is missing, cannot be read, or is not a regular file; or a folder of its name is a link.
            ValueError: The name leads out of the folder, or cannot be a name.
        """
        with self._place(name) as (here, last):
            _require(stat.S_IFREG, os.lstat(last, dir_fd=here))  # before it is opened: opening a device may already act
            descriptor = os.open(last, os.O_RDONLY | _NO_WAIT, dir_fd=here)
            return os.fdopen(_regular(descriptor), "rb")

    def read(self, name: str) -> bytes:
        """Bytes of a regular file; raises as `open`, and where it has more than `MOST_BYTES`."""
        with self.open(name) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise UnexpectedKindError(errno.EFBIG, f"it has {size} bytes, more than {MOST_BYTES}")
            return file.read()

    def open_lock(self, name: str) -> BinaryIO:
        """Open a regular file to lock it, an empty one where there is none; what is in it stays. Raises as `open`."""
        with self._place(name) as (here, last):
            with suppress(FileNotFoundError):
                _require(stat.S_IFREG, os.lstat(last, dir_fd=here))
            descriptor = os.open(last, os.O_RDWR | os.O_CREAT | _NO_WAIT, 0o666, dir_fd=here)
            return os.fdopen(_regular(descriptor), "r+b", buffering=0)

    def write(self, name: str, data: bytes, *, shared: bool = False) -> None:
        """Replace a file at once and for good: whoever reads it, even after a crash, finds the old bytes or these.

        Args:
            name: The file. A link, FIFO or the like in its place is replaced itself, never what it leads to.
            data: What shall be in it.
            shared: Whether others may be writing it now, without a common lock.

        Raises:
            OSError: It cannot be written, or a folder is in its place.
        """
        with self._place(name, make=True) as (here, last):
            temporary = f"{last}.{secrets.token_hex(8)}.tmp" if shared else f"{last}.tmp"
            _unlink(temporary, here)  # what a killed writer left
            descriptor = os.open(temporary, _NEW, 0o666, dir_fd=here)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, last, src_dir_fd=here, dst_dir_fd=here)
            except BaseException:
                with suppress(OSError):
                    _unlink(temporary, here)
                raise
            os.fsync(here)

    def move(self, source: str, target: str) -> None:
        """Rename a file, for good, over whatever file or link is at `target`; raises OSError."""
        with self._place(source) as (there, old), self._place(target, make=True) as (here, new):
            os.replace(old, new, src_dir_fd=there, dst_dir_fd=here)
            os.fsync(here)

    def require_replaceable(self, name: str, *, make: bool = False) -> None:
        """Raise OSError where `write` or `move` to `name` would fail for what is in its place; `make` its folders."""
        with suppress(FileNotFoundError), self._place(name, make=make) as (here, last):
            found = os.lstat(last, dir_fd=here)
            if stat.S_ISDIR(found.st_mode):
                _require(stat.S_IFREG, found)

    def has(self, name: str) -> bool:
        """Whether anything has this name; raises OSError where a folder of its name is a link."""
        try:
            with self._place(name) as (here, last):
                os.lstat(last, dir_fd=here)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file or link, if there is one; raises OSError."""
        with suppress(FileNotFoundError), self._place(name) as (here, last):
            _unlink(last, here)

    def make_folder(self, name: str) -> None:
        """Make a folder; raises OSError where something has its name."""
        with self._place(name) as (here, last):
            os.mkdir(last, dir_fd=here)

    def remove_tree(self, name: str) -> None:
        """Remove whatever has this name, with all below it; links are removed, not followed. Raises OSError."""
        with suppress(FileNotFoundError), self._place(name) as (here, last):
            _remove_tree(last, here, _DEEPEST)

    def flush(self, name: str = "") -> None:
        """Have the names in a folder, this one by default, on the disk before going on; raises OSError."""
        with self._place(f"{name}/x" if name else "x") as (here, _):
            os.fsync(here)

    @contextmanager
    def _place(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that `name` lies in, its last component; `make` folders that are missing."""
        *folders, last = _components(name)
        here = os.dup(self._descriptor)
        try:
            for folder in folders:
                below = _open_below(folder, here, make=make)
                os.close(here)
                here = below
            yield here, last
        except OSError as error:
            error.filename, error.filename2 = str(self.path / name), None
            raise
        finally:
            os.close(here)


def _components(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise ValueError(f"{name!r} is not a name below a folder")
    return parts


def _open_below(name: str, here: int, *, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=here)
            os.fsync(here)
    try:
        return os.open(name, _BELOW, dir_fd=here)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        found = _KINDS.get(stat.S_IFMT(os.lstat(name, dir_fd=here).st_mode), "something else")
        raise UnexpectedKindError(errno.ENOTDIR, f"{name} is {found}, not a folder") from error


def _require(kind: int, found: os.stat_result) -> None:
    if (actual := stat.S_IFMT(found.st_mode)) != kind:
        raise UnexpectedKindError(errno.EINVAL, f"it is {_KINDS.get(actual, 'something else')}, not {_KINDS[kind]}")


def _regular(descriptor: int) -> int:
    """The descriptor, if it is a regular file's; it is closed otherwise."""
    try:
        _require(stat.S_IFREG, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _unlink(name: str, here: int) -> None:
    try:
        os.unlink(name, dir_fd=here)
    except FileNotFoundError:
        pass
    except IsADirectoryError as error:
        raise UnexpectedKindError(errno.EISDIR, f"{name} is a folder, not a file") from error


def _remove_tree(name: str, here: int, levels: int) -> None:
    try:
        below = os.open(name, _BELOW, dir_fd=here)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=here)
        return
    try:
        if not levels:
            raise OSError(errno.ENOTEMPTY, f"it holds more than {_DEEPEST} levels of folders")
        with os.scandir(below) as entries:
            names = [entry.name for entry in entries]
        for each in names:
            _remove_tree(each, below, levels - 1)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=here)


def flush(path: Path) -> None:
    """Have a file, or a folder's names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(file: BinaryIO) -> str:
    """Sha256 of what is left to read, in hex."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return digest_of(file)
