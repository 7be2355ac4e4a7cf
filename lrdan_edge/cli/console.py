"""Prints lines, tables and progress on a terminal. Imports Rich when a command first prints."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Column, Table


PLAIN_EVERY_S = 5.0
"""Seconds between lines of progress where there is no terminal."""


@cache
def terminal() -> "Console":
    """The terminal that all commands print on. It does not colour names and numbers, and does not wrap long lines."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, markup=False)


def show(what: "RenderableType" = "", style: str | None = None) -> None:
    """Print a line or a table. Control codes in a line are replaced (`printable`); cells of a table are the caller's to check."""
    terminal().print(printable(what) if isinstance(what, str) else what, style=style)


def printable(text: str) -> str:
    """The text with � in place of a terminal's control codes, which a stranger's file name or bundle may hold; line ends stay."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def show_unread(*folders: "Path | str | None") -> None:
    """Print what is not read in these folders; what is not a folder is left out."""
    from lrdan_edge.data.listing import listing_notes

    for folder in dict.fromkeys(Path(folder) for folder in folders if folder):
        for note in listing_notes(folder):
            show(f"Note: {note}")


@contextmanager
def standard_output_for_data() -> Iterator[int]:
    """A file descriptor of standard output, which is kept for data: whatever else is printed goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield kept
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def table(*columns: "str | Column", title: str | None = None, header: bool = True) -> "Table":
    """An empty table."""
    from rich.table import Table

    return Table(*columns, title=title, show_header=header)


def write_json(value: object) -> None:
    """Print a value as indented JSON."""
    from lrdan_edge.bundle.encoding import to_json

    sys.stdout.write(to_json(value).decode())


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar that shows the current phase and the fraction done; without a terminal a line every few seconds, on standard error."""
    if not terminal().is_terminal:
        with _plain_progress(title) as update:
            yield update
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=terminal(), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda phase, fraction: bar.update(task, description=phase, completed=fraction)


@contextmanager
def _plain_progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """Print the current phase from time to time, even while nothing reports progress: a long step must not look like a hang."""
    begun, ended, stream = time.monotonic(), threading.Event(), sys.stderr
    now = ("starting", 0.0)

    def update(phase: str, fraction: float) -> None:
        nonlocal now
        now = (phase, fraction)

    def say() -> None:
        while not ended.wait(PLAIN_EVERY_S):
            (phase, fraction), (minutes, seconds) = now, divmod(round(time.monotonic() - begun), 60)
            with suppress(OSError, ValueError):  # the reader has gone, which must not end the work
                print(f"{title}: {phase} {fraction:.0%}, {minutes}:{seconds:02d}", file=stream, flush=True)

    thread = threading.Thread(target=say, name="progress", daemon=True)
    thread.start()
    try:
        yield update
    finally:
        ended.set()
        thread.join()


@contextmanager
def status_line(first: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a line that can be replaced."""
    with terminal().status(first) as status:
        yield lambda line: status.update(line)
