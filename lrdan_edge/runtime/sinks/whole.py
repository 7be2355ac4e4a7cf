"""Writes a file whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes, *, durable: bool) -> None:
    """Write under a temporary name, then rename; a missing folder is made.

    Args:
        path: The file; an earlier one is replaced.
        data: Its content.
        durable: Whether to wait until the disk has it, so that a power failure does not leave an empty file.

    Raises:
        OSError: It cannot be written; an earlier file is as it was.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
