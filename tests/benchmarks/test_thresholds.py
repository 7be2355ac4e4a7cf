"""The simulation of thresholds: its rates are those of the draws, and the effects it exists to show are there."""

import json
from pathlib import Path

import numpy as np
import pytest
from parts import defective_image, good_image, write

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="not a checkout")


def test_the_promise_is_kept_where_scores_are_exchangeable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import thresholds

    rng = np.random.default_rng(0)
    scores, bad = rng.normal(size=400).tolist(), rng.normal(3, 1, 50).tolist()
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"scores": scores, "defective": bad}))
    material = thresholds.from_file(path)
    rows = thresholds.simulate(material, 0.05, draws=300)
    assert len(rows) == 8
    for row in rows:
        assert 0.03 < np.mean(row.rates) < 0.06, "about 53 held-out scores: the rate is 2 / 54"
        assert 0.5 < np.mean(row.recalls) < 1
    split, pooled = rows[0], rows[2]
    assert np.std(pooled.thresholds) < np.std(split.thresholds), "five times the images"
    page = thresholds.as_markdown("nothing", material, rows, 0.05, "command")
    assert page.count("| images | split, single images | 5.0% |") == 1


def test_copies_of_training_images_break_the_promise_and_whole_parts_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import thresholds

    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 4)
    scores = rng.normal(size=150)[groups] + 0.3 * rng.normal(size=600)
    material = thresholds.Material(scores.tolist(), groups.tolist(), (scores - 0.7).tolist())
    leaky, _, _, pooled = (np.mean(row.rates) for row in thresholds.simulate(material, 0.05, draws=200)[4:])
    assert leaky > 0.1
    assert pooled == pytest.approx(0.05, abs=0.02)


def test_a_rate_that_is_too_low_for_the_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import thresholds

    few = thresholds.Material(list(range(60)), list(range(60)), list(range(60)))
    cells = thresholds.simulate(few, 0.02, draws=3)[0].cells(0.02, 1.0)
    assert cells[3] == "too few"


def test_a_recipe_is_fitted_again_in_every_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import thresholds

    rng = np.random.default_rng(0)
    for place in range(60):
        write(tmp_path / "train/good" / f"{place}.png", good_image(rng))
    for place in range(4):
        write(tmp_path / "test/good" / f"{place}.png", good_image(rng))
        write(tmp_path / "test/blob" / f"{place}.png", defective_image(rng)[0])
    monkeypatch.setattr(thresholds, "REFITS", 2)
    monkeypatch.setattr(thresholds, "group_names", lambda paths, *_: [path.name for path in paths])
    material, rows = thresholds.simulate_refits(tmp_path, "padim", (32, 32, 1), 0.05, 0)
    assert (len(material.scores), len(material.defective)) == (60, 4)
    split, crossed = rows
    assert split.rates == [], "8 held-out images cannot promise 5 %"
    assert len(crossed.rates) == 2
    assert crossed.recalls == [1, 1]
    with pytest.raises(SystemExit, match="not cross-fitted"):
        thresholds.simulate_refits(tmp_path, "lrdan", (32, 32, 1), 0.05, 0)
