"""What the tests of signatures share."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from parts import rewrite_manifest

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.cli.main import cli
from lrdan_edge.errors import SignatureError


def lrdan(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refused(bundle: Path, public: Path) -> str:
    with pytest.raises(SignatureError) as caught:
        Bundle.open(bundle, require_signature=public)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def decision_that_accepts_everything(bundle: Path) -> None:
    """As an attacker would: decision, manifest and checksum agree with each other."""
    path = bundle / "decision.json"
    fields = json.loads(path.read_text())
    for graph in fields["graphs"].values():
        graph["good_scores"][-1] = graph["threshold"] = 1e30
    path.write_text(json.dumps(fields))
    record = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    rewrite_manifest(bundle, lambda manifest: manifest["files"].update({"decision.json": record}))
