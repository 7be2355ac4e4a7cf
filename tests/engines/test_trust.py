"""Only engines that this machine built, or that somebody here vouched for, are loaded."""

import hashlib
import hmac
import os
import threading
from pathlib import Path

import pytest

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.engines import open as engines_module
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.open import engines, open_engine, trust_engine
from lrdan_edge.engines.select import choose
from lrdan_edge.engines.trust import KEY_VARIABLE, is_trusted, key_path, sign
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import EngineError, MissingStageError


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's machine keeps its key; there is none yet."""
    path = tmp_path / "config/engine.key"
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    return path


def test_a_signature_is_the_hmac_of_the_bytes_with_the_key(key: Path) -> None:
    assert not is_trusted(b"sidecar", "0" * 64), "without a key nothing is trusted"
    signature = sign(b"sidecar")
    expected = hmac.new(bytes.fromhex(key.read_text()), b"lrdan-edge engine sidecar\0sidecar", hashlib.sha256)
    assert signature == expected.hexdigest()
    assert is_trusted(b"sidecar", signature)
    assert not is_trusted(b"sidecaR", signature)
    assert not is_trusted(b"sidecar", signature[:-1])
    assert not is_trusted(b"sidecar", "é")
    assert sign(b"sidecar") == signature, "the key is made once"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == [key.name]


@pytest.mark.usefixtures("key")
def test_builds_at_once_agree_on_one_key() -> None:
    signatures: list[str] = []
    threads = [threading.Thread(target=lambda: signatures.append(sign(b"sidecar"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signatures) == 8
    assert len(set(signatures)) == 1


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("0" * 64, 0o644, "others may read the key"),
        ("0" * 63, 0o600, "holds no key"),
        ("é", 0o600, "cannot be read"),
        ("", 0o600, "holds no key"),
    ],
)
def test_a_key_that_is_none_is_refused(key: Path, text: str, mode: int, said: str) -> None:
    key.parent.mkdir()
    key.write_text(text, encoding="utf-8")
    key.chmod(mode)
    with pytest.raises(EngineError, match=said):
        sign(b"")
    with pytest.raises(EngineError, match=said):
        is_trusted(b"", "0" * 64)


def test_another_users_key_is_refused(key: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may give a file away")
    sign(b"")
    os.chown(key, 12345, 12345)
    with pytest.raises(EngineError, match="others may read the key"):
        is_trusted(b"", "0" * 64)


def test_the_key_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert key_path() == Path("/home/somebody/.config/lrdan-edge/engine.key")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert key_path() == Path("/etc/xdg/lrdan-edge/engine.key")


def test_a_key_that_cannot_be_written_says_what_to_set(key: Path) -> None:
    key.parent.write_text("a file where a folder must be")
    with pytest.raises(EngineError, match=KEY_VARIABLE):
        sign(b"")


def test_another_machines_engine_is_not_loaded_until_vouched_for(
    own_bundle: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    (built,) = engines(own_bundle)
    assert built.obstacle is None
    key.unlink()  # the bundle comes to another machine
    with monkeypatch.context() as patched:
        patched.setattr(engines_module, "load_engine", lambda *_: pytest.fail("loaded"))
        (foreign,) = engines(own_bundle)
        assert "did not build it" in str(foreign.obstacle)
        with pytest.raises(EngineError, match="engine trust"):
            open_engine(own_bundle, foreign)
        described = choose(own_bundle, "auto").describe()
        assert "did not build it" in described
        checks = {check.name: check for check in verify_engine(own_bundle, name)}
        assert (checks["files"].passed, checks["signature"].passed, checks["scores"].passed) == (True, False, None)
        with pytest.raises(EngineError, match="not the one you vouch for"):
            trust_engine(own_bundle, name, "0" * 64)
        with pytest.raises(MissingStageError, match="no engine"):
            trust_engine(own_bundle, "nothing.plan", "0" * 64)
    trust_engine(own_bundle, name, built.sidecar.engine_sha256.upper())
    (trusted,) = engines(own_bundle)
    assert trusted.obstacle is None
    open_engine(own_bundle, trusted).close()
    assert all(check.passed for check in verify_engine(own_bundle, name))


def test_a_signature_does_not_fit_another_engine(own_bundle: Bundle) -> None:
    names = [build_engine(own_bundle, BuildRequest(precision, "onnxruntime")) for precision in ("int8", "fp32")]
    first, second = (own_bundle.path / "engines" / f"{name}.sig" for name in names)
    second.write_bytes(first.read_bytes())
    obstacles = {engine.name: engine.obstacle for engine in engines(own_bundle)}
    assert obstacles[names[0]] is None
    assert "did not build it" in str(obstacles[names[1]])
    second.unlink()
    assert "did not build it" in str(engines(own_bundle)[0].obstacle or engines(own_bundle)[1].obstacle)
