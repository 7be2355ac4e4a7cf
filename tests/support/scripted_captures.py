"""A capture that does what a test says, for the capture process; what happened to it is in files, since processes are killed."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lrdan_edge.errors import SourceFormatError


class Scripted:
    """Each step: an image (``image``, ``grey 7``, ``noise``, ``large``), a failed read, a native call that hangs, or death.

    ``at 40`` sets the time in the stream, in ms.
    """

    def __init__(self, script: list[str], log: Path) -> None:
        self._script, self._log, self._number, self._at_ms = script, log, 0, -1.0

    def read(self) -> tuple[bool, object]:
        step, *rest = (self._script.pop(0) if self._script else "fail").split()
        self._number += 1
        if step == "hang":
            time.sleep(20)
        if step == "shape":
            raise cv2.error("a new picture size")
        if step == "die":
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)
        if step == "at":
            self._at_ms = float(rest[0])
            return self.read()
        if step == "pause":
            time.sleep(float(rest[0]))
            return self.read()
        pictures = {
            "image": np.full((2, 2, 3), 40 + self._number % 200, np.uint8),
            "large": np.full((30, 40, 3), 40 + self._number % 200, np.uint8),
            "grey": np.full((2, 2, 3), int(rest[0]) if rest else 0, np.uint8),
        }
        return step in pictures, pictures.get(step)

    def get(self, propId: int, /) -> float:  # noqa: N803
        return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_POS_MSEC: self._at_ms}.get(propId, -1.0)

    def release(self) -> None:
        with (self._log / "released").open("a") as file:
            file.write("x")


def no_opener(reason: str) -> Callable[[], Scripted]:
    """What reads such cameras is missing."""
    raise SourceFormatError(reason, "set it to {format}, not {read_timeout_s}", format="{Mono8}")


def opener(log: str, *scripts: str) -> Callable[[], Scripted]:
    """The n-th connection follows the n-th script (steps between commas), the last one all others too.

    ``refuse`` in place of a script: opening raises what is no SourceError; ``slow``: it takes 3 seconds.
    """
    folder = Path(log)

    def open_one() -> Scripted:
        with (folder / "opened").open("a") as file:
            file.write("x")
        place = min(count(folder, "opened"), len(scripts)) - 1
        steps = [
            step.strip() if "*" not in step else step.split("*")[0].strip()
            for step in scripts[place].split(",")
            for _ in range(int(step.split("*")[1]) if "*" in step else 1)
        ]
        if steps[0] == "refuse":
            raise ZeroDivisionError("a bug")
        if steps[0] == "slow":
            time.sleep(3)
        return Scripted([step for step in steps if step], folder)

    return open_one


def count(log: Path, what: str) -> int:
    """How often a capture was ``opened`` or ``released``."""
    path = log / what
    return len(path.read_text()) if path.exists() else 0
