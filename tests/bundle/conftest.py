"""What may be planted in a bundle, and what must not change for it."""

import os
from pathlib import Path

import pytest
from strangers import KINDS, NAMES, Put


@pytest.fixture
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about a power cut, and flushing takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What is not the bundle's: a file, and a folder with files of the names that a bundle has."""
    folder = tmp_path / "outside"
    for name in ("file", *(name.rpartition("/")[2] for name in NAMES)):
        path = folder / "folder" / name if name != "file" else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"somebody's own {name}")
        os.utime(path, ns=(10**18, 10**18))
    return folder


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS, ids=lambda put: put.__name__.removeprefix("put_"))
def put(request: pytest.FixtureRequest) -> Put:
    chosen: Put = request.param
    return chosen
