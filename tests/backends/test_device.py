"""What the processor is, and what follows from it for int8."""

import platform

import numpy as np
import pytest

from lrdan_edge.backends import instruction_set
from lrdan_edge.backends.instruction_set import FEATURES, features
from lrdan_edge.backends.processor import Processor, processor


def test_numpy_finds_the_same_instruction_sets() -> None:
    """Numpy asks the processor by itself, and knows some of them by other names."""
    core = getattr(np, "_core", None) or np.core
    theirs: dict[str, bool] = core._multiarray_umath.__cpu_features__
    names = {"avx2": "AVX2", "avx512f": "AVX512F", "avx512_vnni": "AVX512VNNI", "asimd": "ASIMD", "asimddp": "ASIMDDP"}
    ours = features()
    for feature, name in names.items():
        if name in theirs:
            assert (feature in ours) == theirs[name], feature


def test_the_kernels_list_is_used_if_glibc_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> set[str]:
        raise AttributeError("another C library")

    monkeypatch.setattr(instruction_set, "_x86", silent)
    monkeypatch.setattr(instruction_set, "_arm", silent)
    for key in ("flags", "features"):
        monkeypatch.setattr(instruction_set, "cpuinfo", lambda key=key: {key: "fpu avx2 asimddp avx512_vnni sse2"})
        assert features() == ["avx2", "avx512_vnni", "asimddp"]
    monkeypatch.setattr(instruction_set, "cpuinfo", dict)
    assert features() == []


def test_this_machines_instruction_sets_are_in_their_order() -> None:
    here = processor()
    assert here.features == [feature for feature in FEATURES if feature in here.features]
    assert here.platform.endswith(platform.machine())


@pytest.mark.parametrize(
    ("machine", "found", "words", "faster"),
    [
        ("x86_64", ["avx2"], "AVX2 without VNNI", False),
        ("x86_64", [], "SSE without VNNI", False),
        ("x86_64", ["avx2", "avx512f"], "AVX-512 without VNNI", False),
        ("x86_64", ["avx2", "avx_vnni"], "AVX-VNNI", True),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], "AVX-512 VNNI", True),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"], "AMX", True),
        ("aarch64", ["asimd"], "NEON without dot product", False),
        ("aarch64", ["asimd", "asimddp"], "Arm dot product", True),
        ("aarch64", ["asimd", "asimddp", "i8mm"], "Arm I8MM", True),
        ("riscv64", [], "unknown", False),
    ],
)
def test_int8_is_expected_to_be_faster_only_with_instructions_for_it(
    machine: str, found: list[str], words: str, faster: bool
) -> None:
    here = Processor(f"linux-{machine}", "a processor", found)
    assert (here.instruction_set, here.int8_is_faster) == (words, faster)
    assert here.describe_int8().startswith(words)
