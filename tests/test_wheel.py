"""What users install: one import name, no torch, and every module also from the source archive."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from parts import Line

from lrdan_edge import Inspector
from lrdan_edge.data.images import read_image

ROOT = Path(__file__).parents[1]
BASE = {"click", "msgspec", "numpy", "onnxruntime", "opencv-python-headless", "platformdirs", "rich"}
# In the repository but not in the source archive: links to folders it has, and what benchmarks wrote beside their tables.
LINKS = {"train", "export", "calibration", "runtime"}
LEFT_OUT = (".json", ".json.xz", ".png")

INSPECT = """
import json, sys
import cv2, lrdan_edge
with lrdan_edge.Inspector.open(sys.argv[1], backend="onnxruntime", precision="fp32") as inspector:
    verdict = inspector.inspect(cv2.imread(sys.argv[2], cv2.IMREAD_UNCHANGED))[0]
files = [lrdan_edge.__file__, *(m.__file__ for name, m in sys.modules.items() if name.startswith("lrdan_edge."))]
print(json.dumps({"files": files, "outcome": verdict.outcome, "score": verdict.score}))
"""


def test_the_base_package_requires_nothing_heavy() -> None:
    base = {Requirement(text).name for text in requires("lrdan-edge") or [] if not Requirement(text).marker}
    assert base == BASE


@pytest.mark.parametrize("extra", ["train", "tensorrt", "openvino", "report", "demo", "dev"])
def test_the_extras_exist(extra: str) -> None:
    parsed = [Requirement(text) for text in requires("lrdan-edge") or []]
    assert any(one.marker and one.marker.evaluate({"extra": extra}) for one in parsed)


@dataclass(frozen=True)
class Archives:
    """What is published: the source archive, the wheel built from it, and one built from the checkout."""

    source: Path
    wheel: Path
    wheel_of_checkout: Path


def build(source: Path, folder: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(source)]
    finished = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    folder = tmp_path_factory.mktemp("archives")
    build(ROOT, folder / "published")  # by default, the wheel is built from the unpacked source archive
    build(ROOT, folder / "checkout", "--wheel")
    source, wheel = (next((folder / "published").glob(pattern)) for pattern in ("*.tar.gz", "*.whl"))
    return Archives(source, wheel, next((folder / "checkout").glob("*.whl")))


def contents(wheel: Path) -> dict[str, int]:
    """The checksum of every file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist()}


def test_the_wheel_has_every_module_and_nothing_else(archives: Archives) -> None:
    files = contents(archives.wheel)
    modules = {name for name in files if name.endswith(".py")}
    assert modules == {path.relative_to(ROOT).as_posix() for path in (ROOT / "lrdan_edge").rglob("*.py")}
    version = archives.wheel.name.split("-")[1]
    assert {name.partition("/")[0] for name in files} == {"lrdan_edge", f"lrdan_edge-{version}.dist-info"}
    assert {"lrdan_edge/py.typed", *(f"lrdan_edge/runtime/explain/{name}" for name in ("page.html", "style.css"))} <= set(files)


def test_the_wheel_is_the_same_from_the_checkout_and_from_the_source_archive(archives: Archives) -> None:
    assert contents(archives.wheel) == contents(archives.wheel_of_checkout)


def test_the_source_archive_carries_the_repository(archives: Archives) -> None:
    """A file added at the root is either named in pyproject.toml or here: none is left out by oversight."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {name for name in listed if (ROOT / name).is_file()} | {"PKG-INFO"}
    expected -= {name for name in expected if name.startswith("benchmarks/results/") and name.endswith(LEFT_OUT)}
    with tarfile.open(archives.source) as archive:
        assert all(member.isfile() for member in archive), "no links, so that it unpacks the same everywhere"
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert found == expected
    assert not {name.partition("/")[0] for name in found} & LINKS


def empty_environment(folder: Path) -> Path:
    """A new virtual environment without packages; gives its Python."""
    venv.create(folder, symlinks=True)
    return folder / "bin/python"


def packages_of(python: Path) -> Path:
    return next(python.parents[1].glob("lib/python3*/site-packages"))


def install(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    finished = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr


def borrow_dependencies(python: Path) -> None:
    """Lend an environment the folders that the base dependencies lie in, read as folders: an editable install there has no effect."""
    modules = ["cv2" if name.startswith("opencv") else name for name in sorted(BASE)]
    specs = [find_spec(name) for name in modules]
    folders = dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin)
    (packages_of(python) / "dependencies.pth").write_text("\n".join(folders))


def check_inspection(python: Path, line: Line, folder: Path) -> None:
    """Inspect a frame outside the checkout with what is installed in an environment, and only that."""
    image = line.data / "test/blob/0.png"
    with Inspector.open(line.bundle, backend="onnxruntime", precision="fp32") as inspector:
        expected = inspector.inspect(read_image(image))[0]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(python), "-I", "-c", INSPECT, str(line.bundle), str(image)]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert len(answer["files"]) > 10
    assert all(Path(file).is_relative_to(packages_of(python) / "lrdan_edge") for file in answer["files"]), answer["files"]
    assert (answer["outcome"], answer["score"]) == (expected.outcome, pytest.approx(expected.score, rel=1e-4))
    command = [str(python.with_name("lrdan-edge")), "info", "--bundle", str(line.bundle)]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr


def test_the_wheel_inspects_without_the_checkout(archives: Archives, line: Line, tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "environment")
    install(python, "--no-index", "--no-deps", str(archives.wheel))
    borrow_dependencies(python)
    check_inspection(python, line, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_with_its_dependencies_is_enough(archives: Archives, line: Line, tmp_path: Path) -> None:
    """As a user installs it, dependencies from the package index included (it has to be reachable)."""
    python = empty_environment(tmp_path / "environment")
    install(python, "--constraint", str(ROOT / "constraints.txt"), str(archives.wheel))
    check_inspection(python, line, tmp_path)
