"""A bundle with every kind of file, and what a stranger may put in the place of one."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import ModelSpec, Preprocessing, Scoring
from lrdan_edge.errors import LrdanError

MODEL = ModelSpec(
    recipe="lrdan", height=32, width=32, channels=1, base_channels=8, latent_channels=4, downsamplings=2, decoder="resize"
)
PREPROCESSING = Preprocessing(colour="grey", resize="area", scale=2 / 255, offset=-1.0)
SCORING = Scoring(normalise=True, smoothing_sigma=2.0, pooling="max")


def _message(number: int, *parts: bytes) -> bytes:
    """A field of a protobuf message, shorter than 128 bytes."""
    data = b"".join(parts)
    return bytes([number << 3 | 2, len(data)]) + data


def _port(number: int, name: bytes, *sizes: int) -> bytes:
    axes = [_message(1, bytes([8, size]) if size else _message(2, b"n")) for size in sizes]
    return _message(number, _message(1, name), _message(2, _message(1, b"\x08\x01", _message(2, *axes))))


def deploy_graph(note: bytes = b"") -> bytes:
    """A graph that a bundle may hold, of `MODEL`'s sizes and without nodes."""
    ports = _port(11, b"frames", 0, 32, 32, 1), _port(12, b"score", 0), _port(12, b"heatmap", 0, 32, 32)
    return b"\x08\x09" + _message(2, note) + _message(7, *ports)


GRAPH = deploy_graph()
ENGINE = "engines/e.onnx"
FILES = {
    "weights.safetensors": b"weights",
    "model.fp32.onnx": GRAPH,
    "decision.json": b"{}",
    "golden/00.png": b"picture",
    "reports/training.json": b"[]",
    ENGINE: b"engine",
    f"{ENGINE}.json": b"{}",
}
OWN = [
    ".lock",
    ".staging",
    ".journal.json",
    ".journal.json.tmp",
    "manifest.json",
    "manifest.json.tmp",
    ".timing.cache",
    ".checkpoint.safetensors",
    ".checkpoint.safetensors.tmp",
    f"{ENGINE}.sig",
]
FOLDERS = ["golden", "reports", "engines"]
NAMES = [*FILES, *OWN, *FOLDERS]


def new_bundle(folder: Path, weights: bytes = b"weights", stage: str = "train") -> Bundle:
    bundle = Bundle.create(folder, MODEL, PREPROCESSING, SCORING)
    write_all(bundle, stage, weights)
    return bundle


def write_all(bundle: Bundle, stage: str = "bench", weights: bytes = b"weights") -> None:
    """Commit every kind of file that a stage writes."""
    with bundle.stage(stage, command=f"lrdan-edge {stage}") as work:
        for name, data in FILES.items():
            work.path(name).write_bytes(weights if name == "weights.safetensors" else data)
        work.unlisted_path(f"{ENGINE}.sig").write_bytes(b"signature")


def put_symlink(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "file")


def put_symlink_to_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "folder", target_is_directory=True)


def put_dangling_symlink(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "new")


def put_hard_link(path: Path, outside: Path) -> None:
    path.hardlink_to(outside / "file")


def put_fifo(path: Path, outside: Path) -> None:  # noqa: ARG001
    os.mkfifo(path)


def put_folder(path: Path, outside: Path) -> None:  # noqa: ARG001
    path.mkdir()
    (path / "inside").write_text("x")


def put_socket(path: Path, outside: Path) -> None:  # noqa: ARG001
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


KINDS = [put_symlink, put_symlink_to_folder, put_dangling_symlink, put_hard_link, put_fifo, put_folder, put_socket]
Put = Callable[[Path, Path], None]


def planted(bundle: Path, name: str, put: Put, outside: Path) -> None:
    """Put something in the place of one of the bundle's files or folders."""
    path = bundle / name
    if path.is_dir():
        path.rename(bundle.parent / "aside")
    path.unlink(missing_ok=True)
    put(path, outside)


def tried(work: Callable[[], object]) -> str | None:
    """What the refusal says, if it is one."""
    try:
        work()
    except LrdanError as error:
        said = str(error)
        assert "\n" not in said
        assert 20 < len(said) < 600
        return said
    return None
