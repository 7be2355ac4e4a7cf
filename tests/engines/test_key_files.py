"""Files of keys are used only if nobody else can have put them there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lrdan_edge.engines.keys import KEY_VARIABLE, ensure_keys, is_signed_here, own_public_key, sign, trust_key, trusted_keys
from lrdan_edge.errors import EngineError

PUBLIC = "ab" * 32


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "keys" / "engine.key"))
    ensure_keys()
    trust_key(PUBLIC)
    assert trusted_keys() == {PUBLIC}
    return tmp_path / "keys"


USES: dict[str, Callable[[], object]] = {
    "engine.key": lambda: is_signed_here(b"x", "0" * 64),
    "trusted-keys": trusted_keys,
    "signing.key": own_public_key,
}


@pytest.fixture(params=USES)
def name(request: pytest.FixtureRequest, keys: Path) -> str:
    if not (keys / request.param).exists():
        pytest.importorskip("cryptography")
    return str(request.param)


def test_a_key_behind_a_link_is_refused(keys: Path, name: str) -> None:
    (keys / name).rename(keys / "elsewhere")
    (keys / name).symlink_to(keys / "elsewhere")
    with pytest.raises(EngineError, match=r"cannot be read \(.*symbolic link"):
        USES[name]()


def test_a_fifo_is_refused_at_once(keys: Path, name: str) -> None:
    (keys / name).unlink()
    os.mkfifo(keys / name, 0o600)
    with pytest.raises(EngineError, match="not a regular file"):
        USES[name]()


def test_a_key_in_a_folder_that_others_can_write_to_is_refused(keys: Path, name: str) -> None:
    keys.chmod(0o777)
    with pytest.raises(EngineError, match="other users may write to its folder, mode 0777"):
        USES[name]()
    keys.chmod(0o1777)  # as /tmp: others cannot replace the file
    USES[name]()


def test_a_huge_file_is_not_read(keys: Path, name: str) -> None:
    os.truncate(keys / name, 1 << 42)
    with pytest.raises(EngineError, match="has more than 1048576 bytes"):
        USES[name]()


def test_the_permissions_are_those_of_the_file_that_is_read(keys: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped between a check by name and the read, the file of others used to be read."""
    (keys / name).chmod(0o666)
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat(keys if self == keys else __file__))  # noqa: PTH116
    with pytest.raises(EngineError, match=r"other users may (read|write to) the"):
        USES[name]()


def test_trust_is_not_written_through_a_link(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("somebody's own\n")
    (keys / "trusted-keys").unlink()
    (keys / "trusted-keys").symlink_to(tmp_path / "other")
    with pytest.raises(EngineError, match="cannot be read"):
        trust_key(PUBLIC)
    assert (tmp_path / "other").read_text() == "somebody's own\n"


def test_a_list_edited_by_hand_is_continued(keys: Path) -> None:
    (keys / "trusted-keys").write_text(f"# mine\n{PUBLIC}")
    trust_key("cd" * 32)
    assert trusted_keys() == {PUBLIC, "cd" * 32}
    assert sign(b"x") == sign(b"x")
