"""NVIDIA's wheels, fetched when the tests run, never vendored: the real parser and builder, and three generations of bindings.

TensorRT for RTX builds engines without a GPU. Running them needs one, so nothing here runs an engine.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache, partial
from pathlib import Path

import pytest
from part_cache import keep

RTX = ("tensorrt-rtx-cu13-bindings==1.7.1.116", "tensorrt-rtx-cu13-libs==1.7.1.116")
GENERATIONS = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",  # JetPack 6
    "10.13.3.9": "tensorrt-cu12-bindings==10.13.3.9",  # JetPack 7
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
PYCUDA = "pycuda==2026.1"
CUDA_BINDINGS = ("cuda-bindings==12.8.0", "cuda-bindings==13.5.0")  # the first for JetPack 6 too, whose driver is CUDA 12's
CUDA_PATHFINDER = "cuda-pathfinder==1.9.0"  # which the newer ones import

# What the bindings need of the libraries before they import; none of it is called.
_SYMBOLS = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]


@cache
def fetch(requirement: str, *, source: bool = False) -> Path | str:
    """The unpacked distribution's folder, or why it could not be had. Downloaded once a machine, tried once a session."""
    name = f"{requirement.replace('==', '-')}-{sys.implementation.cache_tag}"
    return keep(name, partial(_download, requirement, source=source))


def _download(requirement: str, unpacked: Path, *, source: bool) -> str | None:
    """Unpack the distribution into the folder; why that cannot be done, or None."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--retries", "1", "--timeout", "20", "--dest", temporary, requirement]
        # A source archive is only read: nothing is fetched to build it with.
        command += ["--no-binary", ":all:", "--no-build-isolation"] if source else ["--only-binary", ":all:"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            return f"{requirement} took longer than 240 s to download"
        files = [path for path in Path(temporary).iterdir() if path.suffix in {".whl", ".gz"}]
        if result.returncode or not files:
            return f"{requirement} cannot be downloaded: {(result.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        if files[0].suffix == ".whl":
            with zipfile.ZipFile(files[0]) as archive:
                archive.extractall(unpacked)
        else:
            shutil.unpack_archive(files[0], unpacked)
    return None


def fetch_or_skip(requirement: str, *, source: bool = False) -> Path:
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("NVIDIA's wheels used here are for Linux on x86-64")
    folder = fetch(requirement, source=source)
    if isinstance(folder, str):
        pytest.skip(folder)
    return folder


def compile_stub(target: Path, symbols: list[str], name: str | None = None) -> None:
    """A shared library that defines `symbols` and does nothing, known as `name`; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to make stub libraries with (Debian: gcc libc6-dev)")
    code = "".join(f"int {symbol}(void* a, const char* b) {{ (void)a; (void)b; return 1; }}\n" for symbol in symbols)
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-o", str(target), f"-Wl,-soname,{name or target.name}", "-"]
    subprocess.run(command, input=code, text=True, check=True, timeout=60)


def rtx_environment(folder: Path) -> dict[str, str]:
    """Environment in which ``import tensorrt_rtx`` works: NVIDIA's own pair of bindings and libraries."""
    bindings, libraries = (fetch_or_skip(requirement) for requirement in RTX)
    (folder / "tensorrt_rtx").symlink_to(bindings / "tensorrt_rtx_bindings")
    (folder / "tensorrt_rtx_bindings").symlink_to(bindings / "tensorrt_rtx_bindings")
    (folder / "tensorrt_rtx_libs").symlink_to(libraries / "tensorrt_rtx_libs")
    return environment([folder], None)


def tensorrt_environment(folder: Path) -> dict[str, str]:
    """Environment in which ``import tensorrt`` works: the newest official bindings over the libraries of TensorRT for RTX.

    NVIDIA does not support this pair; it exercises the module's real name without a GPU.
    """
    bindings = fetch_or_skip(GENERATIONS["11.4.0.106"])
    libraries = fetch_or_skip(RTX[1]) / "tensorrt_rtx_libs"
    (folder / "tensorrt").symlink_to(bindings / "tensorrt_bindings")
    (folder / "lib").mkdir()
    for name in ("libnvinfer.so.11", "libtensorrt_rtx.so.1"):
        (folder / "lib" / name).symlink_to(libraries / "libtensorrt_rtx.so.1")
    (folder / "lib/libnvonnxparser.so.11").symlink_to(libraries / "libtensorrt_onnxparser_rtx.so.1")
    compile_stub(folder / "lib/libnvinfer_plugin.so.11", ["initLibNvInferPlugins"])
    return environment([folder], folder / "lib")


def generation_environment(version: str, folder: Path) -> dict[str, str]:
    """Environment in which that generation's bindings import, over libraries that define the symbols and do nothing."""
    bindings = fetch_or_skip(GENERATIONS[version])
    (folder / "tensorrt").symlink_to(bindings / "tensorrt_bindings")
    (folder / "lib").mkdir()
    suffix = version.split(".")[0]
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        target = folder / "lib" / f"lib{name}.so.{suffix}"
        compile_stub(target, _SYMBOLS)
    return environment([folder], folder / "lib")


def environment(packages: list[Path], libraries: Path | None) -> dict[str, str]:
    """This process's environment with folders to import from and one to load libraries from."""
    found = dict(os.environ)
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, packages), os.environ.get("PYTHONPATH")]))
    if libraries:
        found["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")]))
    return found
