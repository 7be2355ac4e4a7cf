"""Tables against NumPy's means and deviations."""

import numpy as np
import pytest

from lrdan_edge.protocol.published import PUBLISHED
from lrdan_edge.protocol.readers import CLASSES
from lrdan_edge.protocol.results import SCHEMA_VERSION, Entry, Results, Settings
from lrdan_edge.protocol.table import NOTHING, as_markdown, tables

SETTINGS = Settings(steps=5, train_limit=None, test_limit=None, device="cpu")


def entry(column: str, name: str, seed: int, auroc: float, seconds: float = 1.0) -> Entry:
    return Entry(
        column=column,
        normal_class=name,
        seed=seed,
        settings=SETTINGS,
        auroc=auroc,
        failure=None,
        training_seconds=seconds,
        images={},
        histogram=None,
        processor="a processor",
        versions={"numpy": "2"},
    )


def results(entries: list[Entry]) -> Results:
    return Results(
        schema_version=SCHEMA_VERSION,
        title="A test",
        remark="A remark.",
        dataset="cifar10",
        fingerprint="",
        published=True,
        recipes={"one": "how one is made", "two": ""},
        commands=["lrdan-edge protocol cifar10 --root x"],
        entries=entries,
    )


def test_cells_are_means_and_deviations_over_seeds() -> None:
    rng = np.random.default_rng(0)
    figures = 100 * rng.random((10, 3))
    names = CLASSES["cifar10"]
    entries = [entry("one", name, seed, figures[row, seed] / 100) for row, name in enumerate(names) for seed in range(3)]
    entries += [entry("two", "cat", 0, 0.5, seconds=9.0)]
    (table,) = tables(results(entries))
    assert table.header == ["normal class", "one", "two", "Deep SVDD (published)", "GEOM (published)"]
    assert [row[0] for row in table.rows] == [*names, "mean", "training, s (median)"]
    for row, values in zip(table.rows, figures, strict=False):
        assert row[1] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    by_seed = figures.mean(0)
    assert table.rows[10][1:3] == [f"{by_seed.mean():.1f} ± {by_seed.std(ddof=1):.1f}", NOTHING]
    assert [row[2] for row in table.rows[:4]] == [NOTHING, NOTHING, NOTHING, "50.0"]
    assert table.rows[11][1:] == ["1.0", "9.0", NOTHING, NOTHING]


def test_a_mean_needs_the_same_seeds_in_every_class() -> None:
    entries = [entry("one", "cat", 0, 0.5), entry("one", "cat", 1, 0.5), entry("one", "dog", 0, 0.5)]
    (table,) = tables(results(entries))
    assert table.rows[2][1] == NOTHING


def test_published_means_are_over_the_rows_shown() -> None:
    (table,) = tables(results([entry("one", "cat", 0, 0.5), entry("one", "dog", 0, 0.5)]))
    assert table.rows[2][-1] == f"{(72.4 + 87.8) / 2:.1f}"


def test_the_page_names_its_command_and_settings() -> None:
    page = as_markdown(results([entry("one", "cat", 0, 0.5)]))
    for text in ("A remark.", "    lrdan-edge protocol cifar10 --root x", "- one: how one is made", "- processor: a processor"):
        assert f"\n{text}\n" in page or text == "A remark."
    assert "- versions: numpy 2\n" in page
    assert "5 steps, all training images, all test images, cpu" in page
    assert "Seed 0." in page
    assert "arXiv 1805.10917" in page
    assert "left out" in page


@pytest.mark.parametrize(("dataset", "mean"), [("mnist", 98.0), ("fashion-mnist", 93.5), ("cifar10", 86.0)])
def test_published_rows_have_their_published_means(dataset: str, mean: float) -> None:
    rows = {row.method: row.auroc for row in PUBLISHED[dataset]}  # type: ignore[index]
    assert np.mean(rows["GEOM"]) == pytest.approx(mean, abs=0.1)  # the source gives the mean beside the ten figures
    assert all(len(figures) == 10 and min(figures) > 50 and max(figures) < 100 for figures in rows.values())
