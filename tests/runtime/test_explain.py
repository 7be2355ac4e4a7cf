"""The page of explanations: its numbers are the inspector's, its pictures are what they say, names cannot break it."""

import base64
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from parts import Line, rewrite_manifest, write

from lrdan_edge import Inspector
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.cli.main import cli
from lrdan_edge.data.images import Frame, read_image
from lrdan_edge.errors import DataError, MissingExtraError
from lrdan_edge.runtime.explain import explain
from lrdan_edge.runtime.explain.pictures import heat_picture, strip

X = "{http://www.w3.org/1999/xhtml}"


class Names(HTMLParser):
    """Every tag and attribute, read as a browser reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes


def value(card: ET.Element, name: str) -> float:
    (found,) = card.findall(f".//{X}data[@class='{name}']")
    return float(found.attrib["value"])


def picture(card: ET.Element, title: str) -> Frame:
    (found,) = (image for image in card.iter(f"{X}img") if image.attrib["alt"].startswith(title))
    head, data = found.attrib["src"].split(",")
    assert head == "data:image/png;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    return np.asarray(image, np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_numbers_are_the_inspectors_and_images_are_correct(line: Line, tmp_path: Path, precision: Precision) -> None:
    images = [line.data / "test/good", *sorted((line.data / "test/blob").iterdir())[:3]]
    page = explain(Bundle.open(line.bundle), images, tmp_path / "page.html", backend="onnxruntime", precision=precision)
    cards = list(ET.parse(page.path).iter(f"{X}article"))
    paths = [*sorted((line.data / "test/good").iterdir(), key=lambda path: int(path.stem)), *images[1:]]
    assert len(cards) == len(paths) == page.images == 23
    with Inspector.open(line.bundle, backend="onnxruntime", precision=precision) as inspector:
        verdicts = inspector.inspect([read_image(path) for path in paths])
        good = sorted(inspector.thresholder._good_scores)
    assert page.rejected == sum(verdict.outcome == "reject" for verdict in verdicts) >= 3
    for card, path, verdict in zip(cards, paths, verdicts, strict=True):
        assert verdict.score is not None
        assert value(card, "score") == pytest.approx(verdict.score, rel=1e-5)
        assert (value(card, "threshold"), value(card, "p-value")) == (verdict.threshold, verdict.p_value)
        assert card.attrib["class"] == verdict.outcome
        (said,) = re.findall(r"(\d+) of (\d+) held-out good parts", "".join(card.itertext()))
        assert said == (str(sum(score >= verdict.score for score in good)), str(len(good)))
        np.testing.assert_array_equal(picture(card, "Image"), read_image(path))
        assert picture(card, "Heatmap").shape[:2] == (320, 320)


def test_the_reconstruction_is_pytorchs(line: Line, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from lrdan_edge.model.deployed import load_network

    path = line.data / "test/blob/0.png"
    explain(Bundle.open(line.bundle), [path], tmp_path / "page.html")
    (card,) = ET.parse(tmp_path / "page.html").iter(f"{X}article")
    x = torch.from_numpy(read_image(path)).double()[None, None] / 127.5 - 1
    with torch.inference_mode():
        expected = (load_network(Bundle.open(line.bundle)).network.double()(x)[0][0, 0].numpy() + 1) * 127.5
    assert np.abs(picture(card, "Reconstruction").astype(float) - expected.clip(0, 255)).max() <= 0.51


def test_the_page_is_self_contained_and_names_cannot_break_it(line: Line, tmp_path: Path) -> None:
    name = "<script>alert(1)<&\"'>.png"
    shutil.copy(line.data / "test/good/0.png", tmp_path / name.replace("/", ""))
    (tmp_path / "broken<b>.png").write_bytes(b"x")
    explain(Bundle.open(line.bundle), sorted(tmp_path.glob("*.png")), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    cards = list(ET.fromstring(text).iter(f"{X}article"))
    assert {"".join(head.itertext()) for card in cards for head in card.iter(f"{X}h2")} == {name, "broken<b>.png"}
    assert [card.attrib["class"] for card in cards if card.attrib["class"] == "fault"] == ["fault"]
    read = Names()
    read.feed(text)
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert not any(name.startswith("on") for name, _ in read.attributes)
    addresses = [address or "" for name, address in read.attributes if name in ("src", "href", "style")]
    assert addresses
    assert all(address.startswith("data:image/png") for address in addresses)
    assert "url(" not in text
    assert "@import" not in text


def test_a_name_that_is_not_utf8_is_shown(line: Line, tmp_path: Path) -> None:
    image = Path(os.fsdecode(bytes(tmp_path) + b"/part\xff.png"))
    shutil.copy(line.data / "test/good/0.png", image)
    explain(Bundle.open(line.bundle), [image], tmp_path / "page.html")
    assert "part?.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_line_surrounds_pixels_above_the_threshold() -> None:
    heat = np.zeros((40, 40), np.float32)
    heat[10:20, 5:15] = 3
    plain, lined = heat_picture(heat, 0, 4, None, 160), heat_picture(heat, 0, 4, 2.0, 160)
    changed = (plain != lined).any(2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 79, 20, 59)
    assert not changed[45:75, 25:55].any()
    assert not (heat_picture(heat, 0, 4, 3.5, 160) != plain).any()


def test_the_strip_is_a_histogram_of_the_good_scores() -> None:
    scores = np.random.default_rng(0).normal(size=200).tolist()
    drawing = ET.fromstring(strip(scores, 2.5, 4.0))
    heights = [float(bar.attrib["height"]) for bar in drawing.iter("rect")]
    assert max(heights) == 34.0
    counts = np.array(heights) / 34.0 * max(np.histogram(scores, 28, _range(scores, 2.5, 4.0))[0])
    assert counts.sum() == pytest.approx(200, abs=1)
    assert [mark.attrib["class"] for mark in drawing.iter("path")] == ["mark over"]
    assert "under" in strip([1.0], 1.0, 1.0)  # one score, all the same


def _range(scores: list[float], threshold: float, score: float) -> tuple[float, float]:
    low, high = min(*scores, threshold, score), max(*scores, threshold, score)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def test_a_bundle_without_the_reconstruction_graph_names_the_command(own_line: Line, tmp_path: Path) -> None:
    def forget(manifest: dict[str, Any]) -> None:
        del manifest["files"]["reconstruction.onnx"]

    rewrite_manifest(own_line.bundle, forget)
    words = [
        "explain",
        str(own_line.data / "test/good/0.png"),
        "-b",
        str(own_line.bundle),
        "--output",
        str(tmp_path / "p.html"),
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "lrdan-edge export" in result.output


def test_the_command_says_what_it_wrote_and_needs_no_torch(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    words = ["explain", str(line.data / "test/blob"), "-b", str(line.bundle), "--output", str(tmp_path / "p.html"), "--fp32"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert re.search(r"p\.html: 20 images, \d+ rejected, by \w+ fp32", result.output)


def test_invalid_arguments_are_refused(line: Line, tmp_path: Path) -> None:
    bundle = Bundle.open(line.bundle)
    image = line.data / "test/good/0.png"
    with pytest.raises(DataError, match="cannot be written"):
        explain(bundle, [image], tmp_path / "no" / "page.html")
    with pytest.raises(DataError, match="too many for one page"):
        explain(bundle, [image] * 201, tmp_path / "page.html")


def test_without_jinja_the_error_names_the_extra(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"explain needs jinja2.*pip install 'lrdan-edge\[report\]'"):
        explain(Bundle.open(line.bundle), [line.data / "test/good/0.png"], tmp_path / "page.html")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (Debian: chromium)")
@pytest.mark.parametrize("width", [1280, 500])  # headless Chromium lays out no narrower than 500
def test_a_browser_shows_the_page_without_horizontal_scrolling(line: Line, tmp_path: Path, width: int) -> None:
    write(tmp_path / ("long-" * 30 + ".png"), read_image(line.data / "test/blob/0.png"))
    explain(Bundle.open(line.bundle), sorted(tmp_path.glob("*.png")), tmp_path / "page.html")
    words = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ]
    words += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={width},900", "--hide-scrollbars", f"--screenshot={tmp_path / 'shot.png'}"]
    subprocess.run(["chromium", *words, (tmp_path / "page.html").as_uri()], check=True, capture_output=True, timeout=90)
    shot = read_image(tmp_path / "shot.png")
    assert shot.shape[1] == width
    assert shot[:, -2:].std() < 1  # nothing reaches the right edge
    assert shot.std() > 10
