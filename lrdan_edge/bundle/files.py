"""Open, replace and remove files below an untrusted folder without following symbolic links.

A bundle from an untrusted source may contain links, FIFOs or devices in place of its files. So every name is resolved from the
folder's descriptor, one component at a time (openat with O_NOFOLLOW): swapping an entry between a check and its use does not lead
outside. Only regular files with one name are opened, and the descriptor that is checked is the one that is read. No file is written
in place: new bytes go to a new file that is then renamed, so the other names of a hard link keep their content. The folder's own
path may contain links, since the user chose it.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _FOLDER | os.O_NOFOLLOW
_NO_WAIT = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO created after the check must not block
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MOST_BYTES = 1 << 28
"""Size limit in bytes of a file that is read whole, where nothing smaller is known."""

MOST_JSON = 1 << 26
"""Size limit in bytes of a JSON file; the list of 100 000 images takes 10 MB."""

MOST_OF_LARGE = (1 << 31) - 1
"""Size limit in bytes of weights, graphs and engines: the largest protobuf message."""

_DEEPEST = 8  # nested folders in a folder to remove; lrdan-edge makes one level

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
    """The entry is not of the expected kind (regular file or folder); ``strerror`` names its kind."""


class Folder:
    """A folder held open. Names are relative POSIX paths below it; an OSError names the full path."""

    def __init__(self, path: Path) -> None:
        """Open the folder.

        Raises:
            OSError: `path` cannot be opened, or is not a folder.
        """
        self.path = path
        self._descriptor = os.open(path, _FOLDER)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._descriptor)

    def open(self, name: str) -> BinaryIO:
        """Open a regular file for reading.

        Raises:
            OSError: It is missing, cannot be read, or is not a regular file with one name; or a folder in its path is a link.
            ValueError: The name leads out of the folder, or is not a valid name.
        """
        with self._place(name) as (here, last):
            _require(stat.S_IFREG, os.lstat(last, dir_fd=here))  # before opening: opening a device can have side effects
            descriptor = os.open(last, os.O_RDONLY | _NO_WAIT, dir_fd=here)
            return os.fdopen(_regular(descriptor), "rb")

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read a regular file; raises as `open`, and OSError if it has more than `most` bytes."""
        with self.open(name) as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(most + 1) if size <= most else b""  # it may grow while it is read
            if max(size, len(data)) > most:
                raise UnexpectedKindError(errno.EFBIG, f"it has {max(size, len(data))} bytes, more than {most}")
            return data

    def open_lock(self, name: str) -> BinaryIO:
        """Open a regular file for locking, creating an empty one if missing; its content is kept. Raises as `open`."""
        with self._place(name) as (here, last):
            with suppress(FileNotFoundError):
                _require(stat.S_IFREG, os.lstat(last, dir_fd=here))
            descriptor = os.open(last, os.O_RDWR | os.O_CREAT | _NO_WAIT, 0o666, dir_fd=here)
            return os.fdopen(_regular(descriptor), "r+b", buffering=0)

    def write(self, name: str, data: bytes, *, shared: bool = False) -> None:
        """Replace a file atomically and durably: readers find the old or the new bytes, even after a crash.

        Args:
            name: The file. A link or FIFO in its place is itself replaced, not its target.
            data: The new content.
            shared: Whether other processes may write it at the same time without a common lock.

        Raises:
            OSError: It cannot be written, or a folder has its name.
        """
        with self._place(name, make=True) as (here, last):
            temporary = f"{last}.{secrets.token_hex(8)}.tmp" if shared else f"{last}.tmp"
            _unlink(temporary, here)  # left by a killed writer
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
        """Rename a file durably, replacing a file or link at `target`; raises OSError."""
        with self._place(source) as (there, old), self._place(target, make=True) as (here, new):
            os.replace(old, new, src_dir_fd=there, dst_dir_fd=here)
            os.fsync(here)

    def require_replaceable(self, name: str, *, make: bool = False) -> None:
        """Raise OSError if an existing entry would make `write` or `move` to `name` fail; `make` creates missing folders."""
        with suppress(FileNotFoundError), self._place(name, make=make) as (here, last):
            found = os.lstat(last, dir_fd=here)
            if stat.S_ISDIR(found.st_mode):
                _require(stat.S_IFREG, found)

    def has(self, name: str) -> bool:
        """Whether an entry with this name exists; raises OSError if a folder in its path is a link."""
        try:
            with self._place(name) as (here, last):
                os.lstat(last, dir_fd=here)
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Remove a file or link if it exists; raises OSError."""
        with suppress(FileNotFoundError), self._place(name) as (here, last):
            _unlink(last, here)

    def make_folder(self, name: str) -> None:
        """Make a folder; raises OSError if an entry has its name."""
        with self._place(name) as (here, last):
            os.mkdir(last, dir_fd=here)

    def remove_tree(self, name: str) -> None:
        """Remove an entry and everything below it; links are removed, not followed. Raises OSError."""
        with suppress(FileNotFoundError), self._place(name) as (here, last):
            _remove_tree(last, here, _DEEPEST)

    def flush(self, name: str = "") -> None:
        """Flush a folder's entries to disk (by default this folder's); raises OSError."""
        with self._place(f"{name}/x" if name else "x") as (here, _):
            os.fsync(here)

    @contextmanager
    def _place(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The descriptor of the folder that contains `name`, and the last component; `make` creates missing folders."""
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


def is_path(text: str) -> bool:
    """Whether a file can have this path: it is not empty, too long for Linux, or contains a null byte."""
    try:
        parts = os.fsencode(text).split(b"/")
    except UnicodeEncodeError:
        return False
    return "\0" not in text and text != "" and sum(len(part) + 1 for part in parts) <= 4096 and max(map(len, parts)) <= 255


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


def most_bytes(name: str) -> int:
    """The size limit in bytes of the bundle's file `name`; no file of a bundle is read or hashed beyond it."""
    if name.endswith((".json", ".md")):
        return MOST_JSON
    return MOST_BYTES if name.endswith((".png", ".sig")) else MOST_OF_LARGE


def _require(kind: int, found: os.stat_result) -> None:
    if (actual := stat.S_IFMT(found.st_mode)) != kind:
        raise UnexpectedKindError(errno.EINVAL, f"it is {_KINDS.get(actual, 'something else')}, not {_KINDS[kind]}")
    if kind == stat.S_IFREG and found.st_nlink > 1:  # 0: replaced since it was opened
        raise UnexpectedKindError(errno.EMLINK, f"it is a hard link: {found.st_nlink} names share its content; copy the bundle")


def _regular(descriptor: int) -> int:
    """Return the descriptor if it is of a regular file; otherwise close it and raise."""
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
    """Flush a file, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(file: BinaryIO) -> str:
    """Sha256 of the bytes left to read, in hex."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return digest_of(file)
