"""Which instruction sets this processor has.

This asks glibc instead of reading ``/proc/cpuinfo``: under user-mode emulation the file describes the host's processor, and glibc
describes the emulated one.
"""

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path

FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
"""Instruction sets that decide which CPU kernels run (x86, then Arm), by their names in Linux."""

# cpuid leaves as glibc numbers them (<sys/platform/x86.h>): 1 is leaf 7, 6 is leaf 7.1. Then register (eax, ebx, ecx, edx) and bit.
_X86_BITS = {
    "avx2": (1, 1, 5),
    "avx512f": (1, 1, 16),
    "avx512_vnni": (1, 2, 11),
    "amx_int8": (1, 3, 25),
    "avx_vnni": (6, 0, 4),
    "avx512_bf16": (6, 0, 5),
}
_AT_HWCAP, _AT_HWCAP2 = 16, 26  # <elf.h>
_ARM_BITS = {"asimd": (_AT_HWCAP, 1), "asimddp": (_AT_HWCAP, 20), "i8mm": (_AT_HWCAP2, 13)}  # <asm/hwcap.h>


class _Leaf(ctypes.Structure):
    """glibc's ``struct cpuid_feature``: the features that the processor has, and those that the kernel lets programs use."""

    _fields_ = (("cpuid", ctypes.c_uint * 4), ("active", ctypes.c_uint * 4))


def features() -> list[str]:
    """The `FEATURES` that this process may use, in the order of `FEATURES`; from ``/proc/cpuinfo`` if glibc does not know."""
    ask: Callable[[], set[str]] = _arm if platform.machine() in ("aarch64", "arm64") else _x86
    try:
        found = ask()
    except (AttributeError, OSError, ValueError):  # an older glibc, another C library
        found = _listed()
    return [feature for feature in FEATURES if feature in found]


def _x86() -> set[str]:
    """Ask glibc 2.33 or later; other C libraries raise AttributeError."""
    ask = ctypes.CDLL(None)["__x86_get_cpuid_feature_leaf"]
    ask.restype, ask.argtypes = ctypes.POINTER(_Leaf), [ctypes.c_uint]
    return {name for name, (leaf, register, bit) in _X86_BITS.items() if int(ask(leaf).contents.active[register]) >> bit & 1}


def _arm() -> set[str]:
    ask = ctypes.CDLL(None)["getauxval"]
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return {name for name, (kind, bit) in _ARM_BITS.items() if int(ask(kind)) >> bit & 1}


def _listed() -> set[str]:
    """The features that ``/proc/cpuinfo`` lists for the first processor."""
    for key, value in cpuinfo().items():
        if key in ("flags", "features"):
            return set(value.split())
    return set()


def cpuinfo() -> dict[str, str]:
    """The first processor's fields in ``/proc/cpuinfo``, by name in lower case; empty if the file does not exist."""
    fields: dict[str, str] = {}
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    return fields
