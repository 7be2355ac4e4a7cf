"""Processors that this machine is not, each with a Python inside it that has the base package's dependencies.

QEMU's user emulation runs one process's instructions and hands its system calls to this machine's kernel. So an emulated x86-64
takes this machine's own Python and packages, and an emulated Arm takes Debian's Python and PyPI's wheels for Arm, which are fetched
once a machine. What cannot be fetched skips the test, with the reason.

QEMU emulates no AVX-512 and no VNNI (nor does any other free emulator): processors that have them are not among these.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from part_cache import keep

REPOSITORY = Path(__file__).parents[2]
_ARM_PYTHON = ("python3-minimal", "libpython3-stdlib", "libstdc++6")  # Debian's packages; the wheels need the last
_DOWNLOAD_SECONDS = 240


@dataclass(frozen=True)
class Processor:
    """A processor as QEMU emulates it.

    Attributes:
        model: QEMU's name for it.
        machine: Its architecture, as `platform.machine` says it.
        features: Of the instruction sets that `lrdan_edge` tells apart, those it has.
        silent: QEMU's flags to leave off, which the model has and QEMU would warn that it does not emulate.
    """

    model: str
    machine: str
    features: frozenset[str]
    silent: str = ""

    def __str__(self) -> str:
        return self.model


_UNEMULATED = ",-rtm,-hle,-invpcid,-x2apic,-tsc-deadline,-pcid"
HASWELL = Processor("Haswell", "x86_64", frozenset({"avx2"}), _UNEMULATED)  # AVX2 without AVX-512 or VNNI
NEHALEM = Processor("Nehalem", "x86_64", frozenset())  # SSE4.2 only
CORTEX_A57 = Processor("cortex-a57", "aarch64", frozenset({"asimd"}))  # Jetson Nano and TX2
CORTEX_A76 = Processor("cortex-a76", "aarch64", frozenset({"asimd", "asimddp"}))  # as Jetson Orin's Cortex-A78AE
ARM_MAX = Processor("max", "aarch64", frozenset({"asimd", "asimddp", "i8mm"}))  # as Jetson Thor's Neoverse V3AE


@dataclass(frozen=True)
class Emulated:
    """A Python inside an emulated processor."""

    command: tuple[str, ...]
    environment: dict[str, str]

    def python(self, *words: object, timeout: float = 240) -> "subprocess.CompletedProcess[str]":
        """Run Python there with these arguments."""
        command = [*self.command, *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)

    def lrdan_edge(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """Run a command of lrdan-edge there, in a process of its own."""
        return self.python("-m", "lrdan_edge", *words)


def emulated(processor: Processor, folder: Path) -> Emulated:
    """A Python with the base package's dependencies, nothing else, on such a processor; skips where a part cannot be had.

    Args:
        processor: Which.
        folder: Where links are kept; made if they are needed.
    """
    qemu = [str(_qemu(processor.machine)), "-cpu", processor.model + processor.silent]
    if processor.machine == platform.machine():
        _link_packages(folder)
        # Without `site`, the virtual environment's other packages are not there.
        return Emulated((*qemu, sys.executable, "-S"), _environment(folder))
    root = _or_skip(_arm_root())
    python = next(path for path in sorted(root.glob("usr/bin/python3.*")) if path.name.removeprefix("python3.").isdigit())
    packages = _or_skip(_arm_packages(python.name.removeprefix("python")))
    home = {"PYTHONHOME": str(root / "usr")}
    return Emulated((*qemu, "-L", str(root), str(python), "-S"), _environment(packages) | home)


def emulated_with_everything(processor: Processor) -> Emulated:
    """This environment's own Python, with all its packages, on such an x86-64; skips as `emulated`."""
    qemu = _qemu(processor.machine)
    return Emulated((str(qemu), "-cpu", processor.model + processor.silent, sys.executable), _environment())


def _environment(*packages: Path) -> dict[str, str]:
    """This process's environment, importing from these folders and the checkout.

    Python keeps the modules it compiled, even where the tests' own does not: an emulator takes seconds to compile them.
    """
    path = {"PYTHONPATH": os.pathsep.join(map(str, [*packages, REPOSITORY]))}
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | path


def _link_packages(folder: Path) -> None:
    """Link what the base package depends on, as it is installed here, into a new folder."""
    folder.mkdir()
    for name in _dependencies():
        installed = distribution(name)
        for top in {path.parts[0] for path in installed.files or ()} - {"..", "__pycache__"}:
            (folder / top).symlink_to(Path(str(installed.locate_file(top))).resolve())


@cache
def _dependencies() -> dict[str, str]:
    """What the base package depends on, and that in turn: versions by name."""
    found: dict[str, str] = {}
    open_names = list(_required("lrdan-edge"))
    while open_names:
        name = open_names.pop()
        if name not in found:
            found[name] = distribution(name).version
            open_names += _required(name)
    return dict(sorted(found.items()))


def _required(name: str) -> Iterator[str]:
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


@cache
def _arm_packages(version: str) -> Path | str:
    """The same dependencies in wheels for Arm and that Python, or why they cannot be had."""
    pins = [f"{name}=={release}" for name, release in _dependencies().items()]
    digest = hashlib.sha256(" ".join(pins).encode()).hexdigest()[:12]
    return keep(f"aarch64-packages-{version}-{digest}", partial(_install_wheels, pins, version))


def _install_wheels(pins: list[str], version: str, folder: Path) -> str | None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    command += [
        "--retries",
        "1",
        "--timeout",
        "20",
        "--only-binary",
        ":all:",
        "--target",
        str(folder),
        "--python-version",
        version,
    ]
    for tag in ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, 37))):
        command += ["--platform", f"{tag}_aarch64"]
    return _failure([*command, *pins], "wheels for aarch64")


@cache
def _arm_root() -> Path | str:
    """A folder with Debian's Python for Arm and the libraries it needs, or why it cannot be had."""
    return keep(f"aarch64-python-{_release()}", partial(_unpack_debian, _ARM_PYTHON, "arm64"))


@cache
def _qemu_static() -> Path | str:
    """A folder with Debian's QEMU that needs no library, or why it cannot be had."""
    return keep(f"qemu-{_release()}", _unpack_qemu)


def _unpack_qemu(folder: Path) -> str | None:
    if reason := _unpack_debian(("qemu-user-static",), "amd64", folder):
        return reason
    for path in (folder / "usr/bin").iterdir():
        if path.name.removesuffix("-static") not in {"qemu-x86_64", "qemu-aarch64"}:
            path.unlink()  # dozens of other processors, 10 MB each
    return None


def _unpack_debian(packages: tuple[str, ...], architecture: str, folder: Path) -> str | None:
    """Unpack Debian packages and all they depend on into the folder; this machine's own package lists stay as they are."""
    apt = folder / "apt"
    (apt / "lists/partial").mkdir(parents=True)
    (apt / "archives/partial").mkdir(parents=True)
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Install-Recommends": "0",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "1",
        "Dir::State": str(apt),
        "Dir::State::lists": str(apt / "lists"),
        "Dir::State::status": "/dev/null",  # nothing is installed, so that nothing is left out
        "Dir::Cache": str(apt),
        "Dir::Cache::archives": str(apt / "archives"),
        "Dir::Log": str(apt),
    }
    command = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    _failure([*command, "update"], "package lists")  # one source out of order need not matter: the next step says what lacks
    if reason := _failure([*command, "install", "--yes", "--download-only", *packages], f"Debian's {' '.join(packages)}"):
        return reason
    for archive in sorted((apt / "archives").glob("*.deb")):
        if reason := _failure(["dpkg", "--extract", str(archive), str(folder)], archive.name):
            return reason
    if not (folder / "lib").exists():  # later Debians have it only below usr
        (folder / "lib").symlink_to("usr/lib")
    shutil.rmtree(apt)
    return None


def _qemu(machine: str) -> Path:
    """QEMU's user emulation of the architecture: this machine's own, or fetched."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("processors are emulated on Linux on x86-64 only")
    if installed := shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static"):
        return Path(installed)
    return next(_or_skip(_qemu_static()).glob(f"usr/bin/qemu-{machine}*"))


def _release() -> str:
    facts = platform.freedesktop_os_release()
    return f"{facts['ID']}-{facts.get('VERSION_ID', 'rolling')}"


def _failure(command: list[str], what: str) -> str | None:
    """Run the command; why that failed, or None."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
    except FileNotFoundError:
        return f"{what} cannot be had: {command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"{what} took longer than {_DOWNLOAD_SECONDS} s"
    said = result.stderr.strip() or "no reason given"
    return f"{what} cannot be had: {said.splitlines()[-1]}" if result.returncode else None


def _or_skip(found: Path | str) -> Path:
    if isinstance(found, str):
        pytest.skip(found)
    return found
