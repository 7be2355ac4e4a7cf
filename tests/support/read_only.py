"""A folder that cannot be written, whoever runs the tests: root writes anywhere by a capability, which is laid down meanwhile."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_VERSION = 0x20080522  # of the structures below: linux/capability.h
_DAC_OVERRIDE = 1 << 1


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Capabilities(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """No file or folder below can be written, made or removed by this thread."""
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & 0o555)
    before = _lay_down() if os.geteuid() == 0 else None
    try:
        yield
    finally:
        if before is not None:
            _set(before)
        for path, mode in modes.items():
            path.chmod(mode)


def _lay_down() -> "ctypes.Array[_Capabilities]":
    """Lay CAP_DAC_OVERRIDE down; what there was before."""
    before, now = (_get() for _ in range(2))
    now[0].effective &= ~_DAC_OVERRIDE
    _set(now)
    return before


def _get() -> "ctypes.Array[_Capabilities]":
    sets = (_Capabilities * 2)()
    assert ctypes.CDLL(None).capget(ctypes.byref(_Header(_VERSION, 0)), sets) == 0
    return sets


def _set(sets: "ctypes.Array[_Capabilities]") -> None:
    assert ctypes.CDLL(None).capset(ctypes.byref(_Header(_VERSION, 0)), sets) == 0
