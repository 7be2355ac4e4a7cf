"""What machine this is, as far as an engine cares."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
"""Instruction sets that change which kernels an optimised CPU graph may use (x86 names, then Arm's)."""


@dataclass(frozen=True)
class Processor:
    """The CPU.

    Attributes:
        platform: Operating system and architecture, such as ``linux-x86_64``.
        name: The model, as the kernel names it.
        features: Instruction sets that engines depend on.
    """

    platform: str
    name: str
    features: list[str]


@cache
def processor() -> Processor:
    """This machine's CPU."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    machine = platform.machine() or "unknown"
    return Processor(
        platform=f"{platform.system().lower()}-{machine}",
        name=_device_tree_model() or fields.get("model name") or machine,  # cpuinfo calls every Jetson an "ARMv8 Processor"
        features=[feature for feature in _FEATURES if feature in flags],
    )


def _device_tree_model() -> str | None:
    """The board's name on Arm (``NVIDIA Jetson AGX Orin``), or None."""
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
