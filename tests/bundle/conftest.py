"""What may be planted in a bundle, and what must not change for it."""

import os
from pathlib import Path

import pytest
from earlier import unpack
from strangers import KINDS, NAMES, Put

from lrdan_edge.bundle.sign import sign_bundle
from lrdan_edge.keys import new_key


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


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("key.pub")


@pytest.fixture
def real(tmp_path: Path, key: Path) -> Path:
    """A signed bundle that runs."""
    bundle = unpack(tmp_path)
    sign_bundle(bundle, key)
    return bundle
