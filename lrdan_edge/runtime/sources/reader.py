"""A camera or stream read in a process of its own, which can be killed where a thread could not be stopped.

Frames cross in shared memory that has no name, so nothing is left behind whoever dies first. Down the process's standard input
go the job (its credentials show in no process list), commands, and the slots that have been copied out; up its standard output
come answers, one JSON object a line: ``ready``, ``opened``, ``frame``, ``lost``. The process ends with its input, so also with us.
"""

import contextlib
import json
import math
import mmap
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources.capture import OPEN, SLOTS, Job

_START_S = 30.0  # a process on a machine under load; an idle one needs a quarter of a second
_END_S = 2.0
_PIPE = 1 << 16


@dataclass(frozen=True, slots=True)
class Opened:
    """The connection stands; what it announces."""

    fps: float | None
    frames: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Arrived:
    """A frame and when it came (``time.monotonic_ns``, one clock for all processes)."""

    image: Frame
    capture_ns: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection failed or ended, and why; nothing follows until `Reader.open`."""

    error: Exception


Message = Opened | Arrived | Lost


class Reader:
    """Reads one capture; messages come one at a time and none is dropped. `take` from one thread, `stop` from any."""

    def __init__(self, job: Job) -> None:
        """Start the process.

        Raises:
            SourceError: It cannot be started.
        """
        self._job = job
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._stopped = False
        self._process: _Process | None = None
        self.open()

    @property
    def pid(self) -> int | None:
        """The process's number, or None while there is none."""
        return self._process.pid if self._process else None

    def open(self) -> None:
        """Ask for a connection; what comes of it is the next message.

        Raises:
            SourceError: No process can be started.
        """
        with self._lock:
            if self._stopped:
                return
            if self._process is None:
                self._process = _Process(self._job)
            self._process.send(OPEN)

    def take(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time, or the reader was stopped. Then kill the process: it hangs."""
        process = self._process
        if process is None:
            return None
        end = time.monotonic() + timeout_s + (0 if process.ready else _START_S)
        while not self._stopped:
            answer = process.answer(self._wake, end - time.monotonic())
            if answer is None:
                return None
            if answer["kind"] == "ready":
                process.ready = True
                end = time.monotonic() + timeout_s
                continue
            if answer["kind"] == "died":
                self.kill()
            return self._message(process, answer)
        return None

    def _message(self, process: "_Process", answer: dict[str, Any]) -> Message | None:
        if answer["kind"] == "frame":
            image = process.frame(answer)
            return None if image is None else Arrived(image, answer["capture_ns"])
        if answer["kind"] == "opened":
            return Opened(answer["fps"], answer["frames"])
        said = answer["error"]
        return Lost(SourceError(said) if answer["expected"] else RuntimeError(f"reading the source failed: {said}"))

    def kill(self) -> None:
        """Kill the process, whatever it hangs in; `open` starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end(kill=True)

    def stop(self) -> None:
        """Wake whoever waits and end the process; never waits for it. May be called again."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            process, self._process = self._process, None
        os.eventfd_write(self._wake, 1)
        threading.Thread(target=self._end, args=(process,), name="lrdan-capture-end", daemon=True).start()

    def _end(self, process: "_Process | None") -> None:
        if process is not None:
            process.end(kill=False)

    def __del__(self) -> None:
        """Give the descriptor back; only when nobody can be waiting on it any more."""
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._wake)


class _Process:
    """One process with its pipes and its shared memory."""

    def __init__(self, job: Job) -> None:
        self._memory = os.memfd_create("lrdan-frames")
        self._map: mmap.mmap | None = None
        self._capacity = 0
        self._waiting = bytearray()
        self._ending, self._using = threading.Lock(), threading.Lock()
        self._ended = False
        self.ready = False
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "lrdan_edge.runtime.sources.capture", str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._memory,),
                env={"OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": str(math.ceil(job.read_timeout_s))}  # read when OpenCV is loaded
                | os.environ
                | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us alone
            )
        except OSError as error:
            os.close(self._memory)
            raise SourceError(f"the capture process cannot be started ({error.strerror}): free memory or processes") from error
        assert self._child.stdout is not None
        self._answers = self._child.stdout.fileno()
        os.set_blocking(self._answers, False)
        self.pid = self._child.pid
        self.send(json.dumps(asdict(job)).encode() + b"\n")

    def send(self, command: bytes) -> None:
        """Write a command; a process that has gone is noticed when it is read from."""
        assert self._child.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.write(command)

    def answer(self, wake: int, timeout_s: float) -> dict[str, Any] | None:
        """The next answer; None when none came in time, or `wake` was written to; ``died`` when the process has gone."""
        end = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while b"\n" not in self._waiting:
            ready = dict(poll.poll(max(0, int(1000 * (end - time.monotonic())))))
            if wake in ready or not ready:
                return None
            with self._using:
                if self._ended:
                    return None
                part = os.read(self._answers, _PIPE)
            if not part:
                return {"kind": "died", "error": f"the capture process died ({self._obituary()})", "expected": True}
            self._waiting += part
        line, _, rest = bytes(self._waiting).partition(b"\n")
        self._waiting = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def frame(self, answer: dict[str, Any]) -> Frame | None:
        """Copy a frame out, and give its slot back; None when it has ended meanwhile."""
        shape, slot = tuple(answer["shape"]), answer["slot"]
        with self._using:
            if self._ended:
                return None
            if self._map is None or answer["capacity"] != self._capacity:
                self._capacity = answer["capacity"]
                self._map = mmap.mmap(self._memory, SLOTS * self._capacity, prot=mmap.PROT_READ)
            shared = np.frombuffer(self._map, np.uint8, int(np.prod(shape)), slot * self._capacity)
            image = shared.reshape(shape).copy()
        self.send(b"%d" % slot)
        return image

    def _obituary(self) -> str:
        try:
            code = self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "its output ended"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def end(self, *, kill: bool) -> None:
        """End the process, at once or when it has released its capture; waits for it. May be called again."""
        with self._ending:
            if self._ended:
                return
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            if kill:
                self._child.kill()
            self._child.stdin.close()
            try:
                self._child.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            with self._using:  # nobody reads what is closed here
                self._ended = True
                self._child.stdout.close()
                os.close(self._memory)
