"""A key in a file of its own is used only if nobody else can have put it there, or read it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from lrdan_edge.cli.main import cli
from lrdan_edge.errors import KeyFileError
from lrdan_edge.keys import is_signed_by, new_key, read_public_key, sign_with

pytest.importorskip("cryptography")

USES: dict[str, Callable[[Path], object]] = {"key": lambda path: sign_with(path, b"x", "test"), "key.pub": read_public_key}


@pytest.fixture(params=USES)
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "keys").mkdir()
    new_key(tmp_path / "keys/key")
    return str(request.param)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    return tmp_path / "keys" / name


def refused(path: Path) -> str:
    with pytest.raises(KeyFileError) as caught:
        USES[path.name](path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_pair_signs_and_verifies(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["bundle", "new-key", str(tmp_path / "key")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key.pub").stat().st_mode & 0o022 == 0
    public, signature = sign_with(tmp_path / "key", b"data", "test")
    assert read_public_key(tmp_path / "key.pub") == public
    assert is_signed_by(b"data", public, signature, "test")
    assert not is_signed_by(b"data", public, signature, "other")
    assert not is_signed_by(b"datA", public, signature, "test")
    assert not is_signed_by(b"data", public, "zz", "test")


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_no_key_is_replaced(tmp_path: Path, there: str) -> None:
    (tmp_path / there).symlink_to(tmp_path / "nowhere")
    with pytest.raises(KeyFileError, match="exists"):
        new_key(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_link_is_refused(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert "symbolic link" in refused(path)


def test_a_fifo_is_refused_at_once(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "not a regular file" in refused(path)


def test_a_folder_that_others_can_write_to_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    assert "other users may write to its folder" in refused(path)


def test_permissions_are_checked(path: Path) -> None:
    path.chmod(0o666)
    assert "other users may" in refused(path)
    assert f"chmod {'644' if path.suffix else '600'}" in refused(path)


def test_a_huge_file_is_not_read(path: Path) -> None:
    os.truncate(path, 1 << 42)
    assert "more than 1048576 bytes" in refused(path)


@pytest.mark.parametrize("data", [b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert "cannot be read" in refused(path) or "is not a" in refused(path)


def test_a_missing_file_is_said(path: Path) -> None:
    path.unlink()
    assert "No such file" in refused(path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    for key, encryption in (
        (X25519PrivateKey.generate(), serialization.NoEncryption()),
        (Ed25519PrivateKey.generate(), serialization.BestAvailableEncryption(b"password")),
    ):
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        (tmp_path / "key").write_bytes(pem)
        (tmp_path / "key").chmod(0o600)
        assert "is not a" in refused(tmp_path / "key")
