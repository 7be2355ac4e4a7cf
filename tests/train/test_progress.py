"""What is printed where there is no terminal."""

from io import StringIO

from rich.console import Console

from lrdan_edge.train.progress import TerminalProgress

LOSSES = {"total": 1.5, "irec": 0.25, "spread_g": 9.0}


def run(console: Console, epochs: int) -> None:
    with TerminalProgress(console) as progress:
        progress.note("images of [1, 2] are scaled")
        for step in range(1, epochs * 3 + 1):
            progress.step((step - 1) // 3 + 1, epochs, step, epochs * 3, LOSSES, 3 * epochs - step + 60)


def test_without_a_terminal_one_line_per_tenth_is_printed() -> None:
    out = StringIO()
    run(Console(file=out), 30)
    lines = out.getvalue().splitlines()
    assert lines[0] == "images of [1, 2] are scaled"
    assert len(lines) == 11
    assert lines[-1] == "epoch 30/30  1:00 left  total 1.500 irec 0.250"


def test_a_bar_with_losses_and_time_left_on_a_terminal() -> None:
    out = StringIO()
    run(Console(file=out, force_terminal=True, width=120), 2)
    assert "6/6" in out.getvalue()
    assert "1:00 left" in out.getvalue()
    assert "irec 0.250" in out.getvalue()


def test_a_line_shows_the_mean_of_its_epoch() -> None:
    """The last batch alone says little: its losses rise and fall from batch to batch."""
    stream = StringIO()
    with TerminalProgress(Console(file=stream, width=200)) as progress:
        for step, total in enumerate((3.0, 1.0, 2.0, 0.0), 1):
            progress.step((step + 1) // 2, 2, step, 4, {"total": total}, 0.0)
    assert [line.split("total ")[1] for line in stream.getvalue().splitlines()] == ["2.000", "1.000"]
