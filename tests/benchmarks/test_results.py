"""What benchmarks wrote: compact files whose tables can be made again, and protocol results that can be added to."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FILES = sorted(RESULTS.glob("*.json"))
MOST_NUMBERS = 40  # in one list: every image's score would be more

pytestmark = pytest.mark.skipif(not FILES, reason="not a checkout: the source archive carries the tables without their JSON")


def lists(value: Any) -> list[list[Any]]:
    """Every list inside a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value] * isinstance(value, list) + [found for one in inner for found in lists(one)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_summary_is_small_and_has_no_scores_of_single_images(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 500
    assert all(sum(isinstance(one, (int, float)) for one in found) <= MOST_NUMBERS for found in lists(json.loads(text)))


def test_files_are_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.iterdir()) < 2_500_000


@pytest.mark.parametrize("name", ["mnist", "mnist-ablation", "mnist-dual-readings", "cifar10", "cifar10-ablation"])
def test_the_protocols_tables_are_made_from_the_summaries(name: str) -> None:
    pytest.importorskip("torch")
    import msgspec

    from lrdan_edge.protocol.results import Results
    from lrdan_edge.protocol.table import as_markdown

    found = msgspec.json.decode((RESULTS / f"{name}.json").read_bytes(), type=Results)
    assert as_markdown(found) == (RESULTS / f"{name}.md").read_text(encoding="utf-8")


def test_the_table_of_parity_is_made_from_its_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import parity

    assert parity.as_markdown(json.loads((RESULTS / "parity.json").read_bytes())) == (RESULTS / "parity.md").read_text("utf-8")


def test_packing_what_was_unpacked_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import protocol_results

    folder, again = tmp_path / "protocol", tmp_path / "results"
    again.mkdir()
    unpacked = protocol_results.unpack(folder)
    assert len(unpacked) == 5
    for path in [*RESULTS.glob("*.md"), *RESULTS.glob("*.png")]:
        (folder / path.name).write_bytes(path.read_bytes())
    protocol_results.pack(folder, again)
    assert {path.name for path in again.glob("*.json")} == {path.name for path in unpacked}
    for path in again.iterdir():
        assert path.read_bytes() == (RESULTS / path.name).read_bytes(), path.name


def test_a_run_keeps_its_histogram_if_a_figure_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of the least seed that did not fail, of each column, class and settings."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import protocol_results

    def run(seed: int, histogram: dict[str, list[int]] | None) -> dict[str, Any]:
        return {"column": "pca", "normal_class": "0", "seed": seed, "settings": {"steps": 1}, "histogram": histogram}

    runs = [run(2, {"normal": [2]}), run(1, {"normal": [1]}), run(0, None)]
    content = {"title": "a", "fingerprint": "b", "entries": runs}
    folder, results = tmp_path / "protocol", tmp_path / "results"
    folder.mkdir()
    results.mkdir()
    (folder / "mnist.json").write_text(json.dumps(content))
    (folder / "mnist.md").write_text("a table")
    (folder / "mnist-0.png").write_bytes(b"a picture")
    protocol_results.pack(folder, results)
    assert len((results / "mnist.json").read_text().splitlines()) == 9
    back = json.loads(protocol_results.unpack(tmp_path / "back", results)[0].read_bytes())
    assert [one["histogram"] for one in back["entries"]] == [None, {"normal": [1]}, None]
    with pytest.raises(SystemExit, match=r"mnist\.json exists"):
        protocol_results.unpack(tmp_path / "back", results)
