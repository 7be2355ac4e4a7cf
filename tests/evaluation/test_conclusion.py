"""The plain verdict: its criteria, its words, and what it says would help."""

import pytest
from trained import bundle

from lrdan_edge.evaluation.conclusion import CRITERIA, conclude
from lrdan_edge.metrics import recall_of


@pytest.mark.parametrize(
    ("rejected", "good", "missed", "defective", "use"),
    [
        (1, 50, 1, 60, "sorting"),
        (0, 20, 0, 20, "sorting"),
        (0, 20, 0, 10, "second look"),  # ten defects cannot show that it finds 80 % of them
        (1, 50, 10, 60, "second look"),
        (10, 50, 1, 60, "second look"),
        (1, 50, 30, 60, "not yet"),
        (30, 50, 0, 60, "not yet"),
        (0, 50, 1, 4, "not yet"),
    ],
)
def test_what_it_is_fit_for(rejected: int, good: int, missed: int, defective: int, use: str) -> None:
    found = conclude(bundle(), recall_of(rejected, good), recall_of(missed, defective), None)
    assert found.use == use
    assert (found.advice is None) == (use == "sorting")


def test_the_uses_are_ordered_from_the_most_demanding() -> None:
    sorting, second = CRITERIA["sorting"], CRITERIA["second look"]
    assert list(CRITERIA) == ["sorting", "second look"]
    assert sorting.recall > second.recall
    assert sorting.sure_recall > second.sure_recall
    assert sorting.false_rejects < second.false_rejects


def test_the_sentences() -> None:
    found = conclude(bundle(), recall_of(4, 49), recall_of(3, 60), 0.05)
    assert found.in_words() == [
        "Of 1000 defective parts like these, it would miss 50 (95% interval 10 to 139).",
        "Of 1000 good parts like these, it would reject 82 (95% interval 23 to 196).",
        "It is usable for sorting: its verdicts can decide about parts.",
    ]
    assert not found.beyond_promise
    assert found.advice is None


def test_a_broken_promise_asks_for_good_images_like_those() -> None:
    found = conclude(bundle(), recall_of(20, 49), recall_of(3, 60), 0.05)
    assert found.beyond_promise
    assert found.advice is not None
    assert found.advice.measure == "more good images"
    assert "unlike" not in found.advice.why
    assert "add images like them" in found.advice.why
