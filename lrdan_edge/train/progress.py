"""Progress of a training run."""

from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars


class Progress:
    """Receives the progress of a training run. This class does nothing; subclasses show or record it."""

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:
        """A step was made.

        Args:
            epoch: The epoch of the step, from 1.
            epochs: Number of all epochs.
            step: The step, from 1, counted over all epochs.
            steps: Number of all steps.
            losses: The step's losses by term, unweighted, and their weighted sum ``total``.
            seconds_left: Estimated remaining time in seconds.
        """

    def cross_fit(self, done: int, fits: int) -> None:
        """After the last step, `done` of the `fits` fits of cross-fitting are finished; called from 0 to `fits`."""

    def note(self, text: str) -> None:
        """A note for the user, one sentence."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Stop showing."""


SHOWN = ("total", "irec", "adv", "zrec", "c", "girec", "direc", "known")


class TerminalProgress(Progress):
    """A progress bar with the step's losses on a terminal; elsewhere one line with the epoch's mean losses per tenth of the epochs."""

    def __init__(self, console: Console | None = None) -> None:
        """Show on `console`, standard error by default."""
        self._console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}  {task.fields[losses]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._fits: TaskID | None = None
        self._last_line = 0
        self._epoch: list[dict[str, float]] = []

    def step(self, epoch: int, epochs: int, step: int, steps: int, losses: dict[str, float], seconds_left: float) -> None:
        """Move the bar, or print a line when a tenth of the epochs is complete."""
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bars.add_task("training", total=steps, left="", losses="")
            self._bars.update(self._task, completed=step, left=f"{_clock(seconds_left)} left", losses=_text([losses]))
            return
        self._epoch.append(losses)
        if step * epochs == epoch * steps:
            means, self._epoch = _text(self._epoch), []
            if epoch * 10 // epochs > self._last_line or epoch == epochs:
                self._last_line = epoch * 10 // epochs
                self.note(f"epoch {epoch}/{epochs}  {_clock(seconds_left)} left  {means}")

    def cross_fit(self, done: int, fits: int) -> None:
        """Move a bar of its own, or print a line at the beginning."""
        if self._console.is_terminal:
            if self._fits is None:
                self._fits = self._bars.add_task("cross-fitting", total=fits, left="", losses="")
            self._bars.update(self._fits, completed=done)
        elif done == 0:
            self.note(f"cross-fitting: {fits} more fits, so that every good image counts for the threshold")

    def note(self, text: str) -> None:
        """Print a sentence above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop updating the bar."""
        self._bars.stop()


def _text(losses: list[dict[str, float]]) -> str:
    """The means over some steps."""
    return " ".join(f"{name} {fmean(step[name] for step in losses):.3f}" for name in SHOWN if name in losses[0])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
