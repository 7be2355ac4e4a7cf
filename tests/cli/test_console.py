"""Progress without a terminal, and what libraries of C print."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from lrdan_edge.cli import console


def test_progress_is_told_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "PLAIN_EVERY_S", 0.02)
    said = ""
    with console.progress_bar("calibrating") as progress:
        progress("ranges", 0.25)
        while "ranges 25%" not in said:  # a step that reports nothing more is told again and again
            said += capsys.readouterr().err
    assert "calibrating: ranges 25%, 0:0" in said
    assert capsys.readouterr().out == ""


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress_bar("calibrating") as progress:
        progress("ranges", 0.25)
    assert capsys.readouterr() == ("", "")


def test_what_is_broken_is_said_with_its_file_and_by_nobody_else(tmp_path: Path) -> None:
    """libpng, libjpeg and OpenCV print lines of their own, which name no file."""
    rng = np.random.default_rng(0)
    for index in range(6):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (64, 64)).astype(np.uint8))
    for suffix in (".png", ".jpg", ".tif", ".webp"):
        data = bytearray(cv2.imencode(suffix, rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))[1].tobytes())
        middle = len(data) // 2
        data[middle : middle + 40] = bytes(value * 7 + 13 & 255 for value in data[middle : middle + 40])
        (tmp_path / f"damaged{suffix}").write_bytes(data)
        (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * 2 // 3])
    result = subprocess.run(
        [sys.executable, "-m", "lrdan_edge", "dataset", "check", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert f"{tmp_path}/cut.png is not a complete image" in result.stdout
    assert result.stderr == ""


def test_errors_of_python_still_reach_standard_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lrdan_edge", "dataset", "check", str(tmp_path / "nothing")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
