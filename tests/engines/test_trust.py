"""Only engines that this machine built, that a trusted machine signed, or that the user accepted are loaded."""

import hashlib
import hmac
import os
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from parts import rewrite_manifest

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.cli.main import cli
from lrdan_edge.engines import open as engines_module
from lrdan_edge.engines.build import BuildRequest, build_engine
from lrdan_edge.engines.keys import KEY_VARIABLE, is_signed_here, key_path, own_public_key, sign, trust_key, trusted_keys
from lrdan_edge.engines.open import engines, open_engine, trust_engine
from lrdan_edge.engines.select import choose
from lrdan_edge.engines.trust import signature_of
from lrdan_edge.engines.verify import verify_engine
from lrdan_edge.errors import EngineError, MissingStageError, UntrustedEngineError


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's machine keeps its key; there is none yet."""
    path = tmp_path / "config/engine.key"
    monkeypatch.setenv(KEY_VARIABLE, str(path))
    return path


def test_a_signature_is_the_hmac_of_the_bytes_with_the_key(key: Path) -> None:
    assert not is_signed_here(b"sidecar", "0" * 64), "without a key nothing is trusted"
    signature = sign(b"sidecar")
    expected = hmac.new(bytes.fromhex(key.read_text()), b"lrdan-edge engine sidecar\0sidecar", hashlib.sha256)
    assert signature == expected.hexdigest()
    assert is_signed_here(b"sidecar", signature)
    assert not is_signed_here(b"sidecaR", signature)
    assert not is_signed_here(b"sidecar", signature[:-1])
    assert not is_signed_here(b"sidecar", "é")
    assert sign(b"sidecar") == signature, "the key is made once"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == [key.name]


@pytest.mark.usefixtures("key")
def test_simultaneous_builds_agree_on_one_key() -> None:
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
        ("0" * 64, 0o644, "other users may read the key"),
        ("0" * 63, 0o600, "is not a key"),
        ("é", 0o600, "cannot be read"),
        ("", 0o600, "is not a key"),
    ],
)
def test_an_invalid_key_is_refused(key: Path, text: str, mode: int, said: str) -> None:
    key.parent.mkdir()
    key.write_text(text, encoding="utf-8")
    key.chmod(mode)
    with pytest.raises(EngineError, match=said):
        sign(b"")
    with pytest.raises(EngineError, match=said):
        is_signed_here(b"", "0" * 64)


def test_another_users_key_is_refused(key: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may give a file away")
    sign(b"")
    os.chown(key, 12345, 12345)
    with pytest.raises(EngineError, match="other users may read the key"):
        is_signed_here(b"", "0" * 64)


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


def test_another_machines_engine_is_not_loaded_until_trusted(
    own_bundle: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    (built,) = engines(own_bundle)
    assert built.unusable_reason is None
    key.unlink()  # the bundle comes to another machine
    with monkeypatch.context() as patched:
        patched.setattr(engines_module, "load_engine", lambda *_: pytest.fail("loaded"))
        (foreign,) = engines(own_bundle)
        assert "did not build it" in str(foreign.unusable_reason)
        with pytest.raises(UntrustedEngineError, match=f"lrdan-edge engine trust {name} --sha256 HEX --bundle"):
            open_engine(own_bundle, foreign)
        described = choose(own_bundle, "auto").describe()
        assert "did not build it" in described
        checks = {check.name: check for check in verify_engine(own_bundle, name)}
        assert (checks["files"].passed, checks["signature"].passed, checks["scores"].passed) == (True, False, None)
        with pytest.raises(EngineError, match="does not have the sha256 that you gave"):
            trust_engine(own_bundle, name, "0" * 64)
        with pytest.raises(MissingStageError, match="no engine"):
            trust_engine(own_bundle, "nothing.plan", "0" * 64)
    trust_engine(own_bundle, name, built.sidecar.engine_sha256.upper())
    (trusted,) = engines(own_bundle)
    assert trusted.unusable_reason is None
    open_engine(own_bundle, trusted).close()
    assert all(check.passed for check in verify_engine(own_bundle, name))


def test_a_signature_is_not_valid_for_another_engine(own_bundle: Bundle) -> None:
    names = [build_engine(own_bundle, BuildRequest(precision, "onnxruntime")) for precision in ("int8", "fp32")]
    first, second = (own_bundle.path / "engines" / f"{name}.sig" for name in names)
    second.write_bytes(first.read_bytes())
    obstacles = {engine.name: engine.unusable_reason for engine in engines(own_bundle)}
    assert obstacles[names[0]] is None
    assert "did not build it" in str(obstacles[names[1]])
    second.unlink()
    assert "did not build it" in str(engines(own_bundle)[0].unusable_reason or engines(own_bundle)[1].unusable_reason)


ED25519 = "cryptography.hazmat.primitives.asymmetric.ed25519"


@pytest.fixture
def device(own_bundle: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle on a device that has no key yet; the build machine's keys are in ``build`` beside this test's key."""
    pytest.importorskip("cryptography")
    monkeypatch.setenv(KEY_VARIABLE, str(key.parent / "build/engine.key"))
    build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    monkeypatch.setenv(KEY_VARIABLE, str(key))
    return own_bundle


def build_machines_key(key: Path) -> str:
    """The public key, by ``cryptography`` itself."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = bytes.fromhex((key.parent / "build/signing.key").read_text())
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()


def test_a_device_loads_what_a_trusted_build_machine_signed(device: Bundle, key: Path) -> None:
    (engine,) = engines(device)
    assert "did not build it" in str(engine.unusable_reason)
    public = build_machines_key(key)
    result = CliRunner().invoke(cli, ["engine", "trust", "--public-key", public.upper()])
    assert result.exit_code == 0, result.output
    trust_key(public)
    assert key.with_name("trusted-keys").read_text() == f"{public}\n", "listed once"
    (engine,) = engines(device)
    assert (engine.unusable_reason, engine.trust.reason) == (None, f"signed by trusted key {public}")
    open_engine(device, engine).close()
    assert all(check.passed for check in verify_engine(device, engine.name))
    assert not key.exists(), "a device needs no secret key"
    assert not key.with_name("signing.key").exists()


def test_verify_shows_the_key_that_devices_need(own_bundle: Bundle, key: Path) -> None:
    pytest.importorskip("cryptography")
    name = build_engine(own_bundle, BuildRequest("int8", "onnxruntime"))
    assert key.with_name("signing.key").stat().st_mode & 0o777 == 0o600
    said = next(check.said for check in verify_engine(own_bundle, name) if check.name == "signature")
    assert said == f"signed on this machine; public key of this machine {own_public_key()}"


def test_another_machines_key_is_not_enough(device: Bundle, key: Path) -> None:
    assert build_machines_key(key)
    trust_key("ab" * 32)
    assert "did not build it" in str(engines(device)[0].unusable_reason)


def test_an_engine_changed_after_signing_is_refused(device: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an attacker would: engine, sidecar and manifest agree with each other; only the signature cannot be made."""
    trust_key(build_machines_key(key))
    (engine,) = engines(device)
    path = device.path / "engines" / engine.name
    sidecar = path.with_name(f"{engine.name}.json")
    path.write_bytes(path.read_bytes() + b"!")
    sidecar.write_text(sidecar.read_text().replace(engine.sidecar.engine_sha256, sha256_of(path)))

    def change(manifest: dict[str, dict[str, dict[str, object]]]) -> None:
        for file in (path, sidecar):
            manifest["files"][f"engines/{file.name}"].update(sha256=sha256_of(file), bytes=file.stat().st_size)

    rewrite_manifest(device.path, change)
    monkeypatch.setattr(engines_module, "load_engine", lambda *_: pytest.fail("loaded"))
    changed = Bundle.open(device.path)
    with pytest.raises(UntrustedEngineError, match="was changed after signing"):
        open_engine(changed, engines(changed)[0])
    assert [check.passed for check in verify_engine(changed, engine.name)] == [True, False, True, None]


def test_without_the_extra_own_engines_run_and_others_name_the_extra(
    device: Bundle, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust_key(build_machines_key(key))
    monkeypatch.setitem(sys.modules, ED25519, None)
    assert "pip install 'lrdan-edge[signing]'" in str(engines(device)[0].unusable_reason)
    name = build_engine(device, BuildRequest("fp32", "onnxruntime"))
    own = next(engine for engine in engines(device) if engine.name == name)
    assert own.unusable_reason is None
    assert (device.path / signature_of(name)).read_text() == sign(
        (device.path / "engines" / f"{name}.json").read_bytes()
    ) + "\n"


def test_accepting_an_engine_keeps_the_build_machines_signature(device: Bundle, key: Path) -> None:
    (engine,) = engines(device)
    before = (device.path / signature_of(engine.name)).read_text()
    trust_engine(device, engine.name, engine.sidecar.engine_sha256)
    after = (device.path / signature_of(engine.name)).read_text()
    assert after.startswith(before)
    assert engines(device)[0].unusable_reason is None
    key.unlink()
    trust_key(build_machines_key(key))
    assert engines(device)[0].unusable_reason is None, "on the next device"


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("0" * 63, 0o644, "not a public key"),
        ("0" * 64, 0o666, "other users may write"),
        (b"\xff".decode("latin-1"), 0o644, "not a public key"),
    ],
)
def test_an_invalid_list_of_trusted_keys_is_refused(device: Bundle, key: Path, text: str, mode: int, said: str) -> None:
    path = key.with_name("trusted-keys")
    path.write_text(f"# line 3\n{build_machines_key(key)} # the build server\n{text}\n", encoding="utf-8")
    path.chmod(mode)
    with pytest.raises(EngineError, match=said):
        trusted_keys()
    assert said in str(engines(device)[0].unusable_reason)


@pytest.mark.parametrize("last", ["1" * 64, f"{'1' * 64}  # the build server"])
def test_a_key_is_added_to_a_list_that_was_edited_by_hand(key: Path, last: str) -> None:
    """An editor may leave the last line without its end."""
    key.parent.mkdir(exist_ok=True)
    key.with_name("trusted-keys").write_text(last)
    key.with_name("trusted-keys").chmod(0o644)
    trust_key("2" * 64)
    assert trusted_keys() == {"1" * 64, "2" * 64}


@pytest.mark.usefixtures("key")
def test_only_a_valid_key_can_be_trusted() -> None:
    assert trusted_keys() == set()
    with pytest.raises(EngineError, match="a public key must be 64 hex digits, got 'abc'"):
        trust_key("abc")


@pytest.mark.parametrize("words", [[], ["e.plan"], ["--sha256", "00"], ["e.plan", "--sha256", "00", "--public-key", "00"]])
def test_trust_needs_an_engine_with_its_sha256_or_a_key(words: list[str]) -> None:
    assert CliRunner().invoke(cli, ["engine", "trust", *words]).exit_code == 2
