"""What takes long to make is made once a test run, however many processes share the tests."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """One process of the machine at a time; the lock ends with the process that holds it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, filled by `make` in whichever process of this run asks first; the others wait and read it.

    Nobody may change what is in it: tests that write take a copy.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which all processes share
    folder = base / name
    made = folder.with_suffix(".made")
    with held(folder.with_suffix(".lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what another one could not finish
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
