"""One run at a time writes into a folder."""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from lrdan_edge.errors import DataError

LOCK = "run.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # some network disks have no locks


class OutputLock:
    """A lock on a folder. It ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Take the lock; the folder exists.

        Raises:
            DataError: Another run writes into the folder.
            OSError: The folder cannot be written.
        """
        self._path = folder / LOCK
        self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise DataError(f"another run writes into {folder}", "end it, or choose another {output}") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                self.release()
                raise

    def holds(self) -> bool:
        """Whether the lock is still in its place: somebody may have deleted the folder."""
        if self._descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """End the lock; may be called again."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
