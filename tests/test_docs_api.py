"""Every example of docs/reference/api.md runs as it stands, one after the other."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from parts import Line, defective_image, good_image, write

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "api.md"


def examples() -> list[str]:
    """The page's indented blocks."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return ["".join(line[4:] or "\n" for line in block.splitlines(keepends=True)) for block in blocks if block.strip()]


def test_the_examples_run(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(2)
    write(tmp_path / "part.png", good_image(rng))
    for index in range(9):
        write(tmp_path / "parts" / f"{index}.png", defective_image(rng)[0] if index > 5 else good_image(rng))
    (tmp_path / "bundle").symlink_to(line.bundle)
    monkeypatch.chdir(tmp_path)
    found = examples()
    assert len(found) == 5
    names: dict[str, object] = {}
    for example in found:
        exec(compile(example, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    assert "onnxruntime" in said or "openvino" in said
    assert "'outcome': 'good'" in said
    assert said.count("eject 0 ") == said.count("eject 1 ") > 0
    records = [json.loads(text) for text in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert len(records) == 18
    assert {"frame_outcome", "area"} <= set(records[0])
    assert "8.png reject reject" in said
