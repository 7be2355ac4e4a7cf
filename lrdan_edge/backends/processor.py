"""This machine's processor: the features that engines depend on, and whether int8 is faster on it."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lrdan_edge.backends.instruction_set import cpuinfo, features

_INT8 = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "i8mm": "Arm I8MM",
    "asimddp": "Arm dot product",
}
"""Instruction sets that multiply 8-bit integers faster than floats, the fastest first."""


@dataclass(frozen=True)
class Processor:
    """The processor.

    Attributes:
        platform: Operating system and architecture, such as ``linux-x86_64``.
        name: The kernel's name for the model.
        features: Instruction sets that engines depend on.
    """

    platform: str
    name: str
    features: list[str]

    @property
    def int8_is_faster(self) -> bool:
        """Whether int8 is expected to run faster than fp32; `lrdan_edge.bench` measures it.

        On x86 without VNNI, three instructions replace one of VNNI, so int8 is only as fast as float. The same holds on Arm
        without the dot product.
        """
        return any(feature in self.features for feature in _INT8)

    @property
    def instruction_set(self) -> str:
        """The name of the instruction set that computes int8: ``AVX-512 VNNI``, ``AVX2 without VNNI``, ``NEON without dot product``."""
        best = next((name for feature, name in _INT8.items() if feature in self.features), None)
        if best:
            return best
        if "asimd" in self.features:
            return "NEON without dot product"
        wide = next((name for feature, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if feature in self.features), None)
        return f"{wide or 'SSE'} without VNNI" if self.platform.endswith(("x86_64", "AMD64")) else "unknown"

    def describe_int8(self) -> str:
        """The instruction set, and whether int8 is expected to be faster, in a sentence."""
        if self.int8_is_faster:
            return f"{self.instruction_set}: int8 is expected to be faster than fp32"
        return f"{self.instruction_set}: int8 is not expected to be faster than fp32, so 'auto' prefers fp32"


@cache
def processor() -> Processor:
    """This machine's processor."""
    machine = platform.machine() or "unknown"
    return Processor(
        platform=f"{platform.system().lower()}-{machine}",
        name=_device_tree_model() or cpuinfo().get("model name") or machine,  # cpuinfo calls every Jetson an "ARMv8 Processor"
        features=features(),
    )


def available_memory() -> int | None:
    """Bytes of memory that can be allocated without swapping; None if the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _device_tree_model() -> str | None:
    """The board's name on Arm (``NVIDIA Jetson AGX Orin``), or None."""
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None
