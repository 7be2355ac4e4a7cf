"""What this machine has of NVIDIA: TensorRT's module, the line that installs it, the GPU."""

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from lrdan_edge.backends import nvidia
from lrdan_edge.errors import EngineError, MissingExtraError


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No TensorRT; a folder that happens to be called tensorrt is on the path, as in a clone of NVIDIA's repository."""
    for name in nvidia.MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path")])
    (tmp_path / "path/tensorrt").mkdir(parents=True)
    return tmp_path / "path"


def test_a_folder_named_tensorrt_is_not_the_module(nothing_installed: Path) -> None:
    assert nothing_installed
    with pytest.raises((MissingExtraError, EngineError), match="tensorrt"):
        nvidia.find_tensorrt()
    sys.modules.pop("tensorrt")


def test_a_broken_installation_is_reported(nothing_installed: Path) -> None:
    (nothing_installed / "tensorrt/__init__.py").write_text("import tensorrt_bindings_that_are_missing\n")
    with pytest.raises(EngineError, match=r"tensorrt is installed but does not load .*tensorrt_bindings_that_are_missing"):
        nvidia.find_tensorrt()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, r"no NVIDIA driver .*--target onnxruntime.*pip install 'lrdan-edge\[tensorrt\]'"),
        ({"proc/driver/nvidia/version": ""}, r"not installed: pip install 'lrdan-edge\[tensorrt\]'"),
        ({"etc/nv_tegra_release": ""}, r"sudo apt-get install python3-libnvinfer, and .*--system-site-packages"),
        ({"proc/device-tree/compatible": "nvidia,p3701\0nvidia,tegra234"}, r"comes with JetPack"),
        (
            {"etc/nv_tegra_release": "", "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""},
            r"installed only for the system's Python: make the environment",
        ),
        ({"proc/driver/nvidia/gpus/0/information": "Model: NVIDIA GeForce RTX 4070"}, r"pip install tensorrt-rtx pycuda"),
    ],
)
def test_the_install_command_suits_the_machine(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises((MissingExtraError, EngineError), match=words):
        raise nvidia.how_to_install(tmp_path)


# The names are the driver's.
# ruff: noqa: N802
class FakeDriver:
    """The CUDA driver's C interface as `ctypes` sees it: an Orin, or a desktop GPU with its own memory."""

    def __init__(self, *, devices: int = 1, integrated: int = 0) -> None:
        self._devices, self._attributes = devices, {75: 8, 76: 7, 18: integrated}
        self.contexts = self.retained = 0

    def __getattr__(self, name: str) -> Any:
        assert name in {"cuDeviceGet", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"}
        return lambda *_: 0

    def cuInit(self, _flags: int) -> int:
        return 0 if self._devices else 100

    def cuDeviceGetName(self, name: Any, _size: int, _device: Any) -> int:
        name.value = b"Orin"
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _device: Any) -> int:
        value._obj.value = self._attributes[attribute]
        return 0

    def cuDevicePrimaryCtxRetain(self, _context: Any, _device: Any) -> int:
        self.contexts += 1
        self.retained += 1
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 3 << 30, 4 << 30
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, _device: Any) -> int:
        self.contexts -= 1
        return 0


def test_the_driver_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = FakeDriver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: desktop)
    gpu = nvidia.find_gpu()
    assert gpu == nvidia.Gpu(name="Orin", compute_capability="8.7", cuda="12.6", integrated=False)
    assert desktop.retained == 0, "finding the GPU is cheap: it makes no context"
    assert gpu.free_bytes() == 3 << 30
    assert (desktop.retained, desktop.contexts) == (1, 0)

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeDriver(integrated=1))
    shared = nvidia.find_gpu()
    assert shared is not None
    assert 0 < shared.free_bytes() != 3 << 30

    monkeypatch.setattr(ctypes, "CDLL", lambda _name: FakeDriver(devices=0))
    assert nvidia.find_gpu() is None


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert nvidia.find_gpu() is None
