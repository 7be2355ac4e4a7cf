"""PyCUDA built from its own source over a software driver: fetched and built when the tests run, once a machine."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import nvidia_wheels
import pytest
from part_cache import cache_folder

HERE = Path(__file__).parent
HEADERS = ("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-profiler-api-cu12==12.9.79")
IMPORTED = ("pytools==2026.1.1", "platformdirs==4.14.8", "mako==1.4.3")  # which PyCUDA imports


def build(driver: Path) -> list[Path]:
    """Write the software driver ``libcuda.so.1`` into a folder; gives folders for PYTHONPATH, or skips where a part cannot be had."""
    if shutil.which("g++") is None or shutil.which("nm") is None:
        pytest.skip("no C++ compiler to build PyCUDA with (Debian: g++)")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        pytest.skip("no Python headers to build PyCUDA with (Debian: python3-dev)")
    source = nvidia_wheels.fetch_or_skip(nvidia_wheels.PYCUDA, source=True)
    headers = [next(nvidia_wheels.fetch_or_skip(name).glob("nvidia/*/include")) for name in HEADERS]
    imported = [nvidia_wheels.fetch_or_skip(name) for name in IMPORTED]
    folder = cache_folder() / f"built-{nvidia_wheels.PYCUDA.replace('==', '-')}-{sys.implementation.cache_tag}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            built = _build_pycuda(Path(temporary), next(source.glob("pycuda-*")), headers, imported)
            try:
                built.rename(folder)
            except OSError:
                if not folder.is_dir():  # another test run was faster
                    raise
    _build_driver(driver, next(folder.glob("pycuda/_driver*.so")), headers)
    return [folder, *imported]


def _build_pycuda(folder: Path, source: Path, headers: list[Path], imported: list[Path]) -> Path:
    root = folder / "cuda"
    (root / "include").mkdir(parents=True)
    (root / "lib64").mkdir()
    for header in headers:
        for file in header.iterdir():
            if not (root / "include" / file.name).exists():
                (root / "include" / file.name).symlink_to(file)
    nvidia_wheels.compile_stub(root / "lib64/libcuda.so", ["cuInit"], "libcuda.so.1")
    copy = folder / "source"
    shutil.copytree(source, copy)
    environment = nvidia_wheels.environment([*imported], root / "lib64")
    for step in (
        ["configure.py", f"--cuda-root={root}", "--no-cuda-enable-curand"],
        ["setup.py", "-q", "build_ext", "--inplace"],
    ):
        finished = subprocess.run(
            [sys.executable, *step], cwd=copy, env=environment, capture_output=True, text=True, timeout=900
        )
        assert finished.returncode == 0, finished.stderr[-2000:]
    (folder / "built").mkdir()
    return Path(shutil.copytree(copy / "pycuda", folder / "built/pycuda")).parent


def _build_driver(folder: Path, pycuda: Path, headers: list[Path]) -> None:
    """The software driver, and for every other symbol that PyCUDA needs one that answers "not supported"."""
    code = (HERE / "software_driver.c").read_text()
    symbols = subprocess.run(["nm", "-D", "--undefined-only", str(pycuda)], capture_output=True, text=True, check=True).stdout
    wanted = set(re.findall(r" (cu[A-Z]\w+)", symbols)) - set(re.findall(r"CUresult (cu\w+)\(", code))
    (folder / "stubs.c").write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted)))
    command = ["gcc", "-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    command += [*(f"-I{header}" for header in headers), str(HERE / "software_driver.c"), str(folder / "stubs.c")]
    subprocess.run(command, check=True, timeout=60)
