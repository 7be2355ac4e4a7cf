"""Reads a camera or stream in a separate process: a process that hangs can be killed, a thread cannot.

Frames pass through anonymous shared memory, which the kernel frees whichever process ends first. The child's standard input
carries the job (so that no process list shows its credentials), commands, and the numbers of slots that were copied out. Its
standard output carries answers, one JSON object per line: ``ready``, ``opened``, ``frame``, ``incomplete``, or ``lost`` with an error's
code and fields. The child ends when its standard input ends, and therefore also when its parent ends, even if it is
stopped then.
"""

import contextlib
import json
import math
import mmap
import os
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lrdan_edge.data.images import Frame
from lrdan_edge.errors import SourceEndedError, SourceError, SourceRefusedError
from lrdan_edge.runtime.sources import capture_process
from lrdan_edge.runtime.sources.capture_process import BUG, OPEN, SLOTS, CaptureJob

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
_START_S = 30.0  # longest start of the process on a machine under load; it usually takes 0.25 s
_END_S = 2.0
_PIPE = 1 << 16
# The child's program. A stopped process sees no end of its input: when its parent ends, it must be continued. Asked for before the
# imports, which take a moment. SIGKILL in its place would leave no time to release the camera, and kill the child whenever the
# thread that started it ends (PR_SET_PDEATHSIG counts threads); SIGCONT does nothing to a process that runs.
_PROGRAM = (
    f"import ctypes; ctypes.CDLL(None).prctl({_SET_PARENT_DEATH_SIGNAL}, {signal.SIGCONT:d}); "
    f"from {capture_process.__name__} import main; main()"
)


def _kinds(base: type[SourceError]) -> dict[str, type[SourceError]]:
    found = {base.code: base}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found


_ERRORS = _kinds(SourceError)


@dataclass(frozen=True, slots=True)
class OpenedMessage:
    """The connection is open; holds the announced frame rate and number of frames."""

    fps: float | None
    frames: int | None


@dataclass(frozen=True, slots=True, eq=False)
class FrameMessage:
    """A frame and its arrival time (``time.monotonic_ns``, the same clock in all processes)."""

    image: Frame
    capture_ns: int


@dataclass(frozen=True, slots=True)
class IncompleteMessage:
    """A frame came that is not complete; says what is wrong. The connection goes on."""

    problem: str


@dataclass(frozen=True, slots=True)
class LostMessage:
    """The connection failed or ended; holds the error. No message follows until `Reader.open`."""

    error: Exception


Message = OpenedMessage | FrameMessage | IncompleteMessage | LostMessage


class Reader:
    """Reads one capture, message by message, and drops none. Call `take` from one thread only, `stop` from any."""

    def __init__(self, job: CaptureJob) -> None:
        """Start the process and connect.

        Raises:
            SourceRefusedError: The process cannot be started.
        """
        self._job = job
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._stopped = False
        self._process: _Process | None = None
        self.open()

    @property
    def pid(self) -> int | None:
        """The process ID, or None while there is no process."""
        return self._process.pid if self._process else None

    def open(self) -> None:
        """Start connecting; the result is the next message.

        Raises:
            SourceRefusedError: The process cannot be started.
        """
        with self._lock:
            if self._stopped:
                return
            if self._process is None:
                self._process = _Process(self._job)
            self._process.send(OPEN)

    def take(self, timeout_s: float) -> Message | None:
        """The next message; None if none came in time (the process hangs: kill it), or if the reader was stopped."""
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
            return None if image is None else FrameMessage(image, answer["capture_ns"])
        if answer["kind"] == "incomplete":
            return IncompleteMessage(answer["problem"])
        if answer["kind"] == "opened":
            return OpenedMessage(answer["fps"], answer["frames"])
        if answer["code"] == BUG:
            return LostMessage(RuntimeError(f"reading the source failed: {answer['problem']}"))
        return LostMessage(_ERRORS.get(answer["code"], SourceError)(answer["problem"], answer["fix"], **answer["values"]))

    def kill(self) -> None:
        """Kill the process; `open` starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end(kill=True)

    def stop(self) -> None:
        """End `take` and the process, without waiting for it. May be called again."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            process, self._process = self._process, None
        os.eventfd_write(self._wake, 1)
        if process is not None:
            threading.Thread(target=process.end, kwargs={"kill": False}, name="lrdan-capture-end", daemon=True).start()

    def __del__(self) -> None:
        """Close the descriptor: no thread can wait on it any more."""
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._wake)


class _Process:
    """One capture process with its pipes and its shared memory."""

    def __init__(self, job: CaptureJob) -> None:
        self._memory = os.memfd_create("lrdan-frames")
        self._map: mmap.mmap | None = None
        self._capacity = 0
        self._waiting = bytearray()
        self._ending, self._using = threading.Lock(), threading.Lock()
        self._ended = False
        self.ready = False
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._memory,),
                env={"OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT": str(math.ceil(job.read_timeout_s))}  # OpenCV reads it when loaded
                | os.environ
                | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches only the parent
            )
        except OSError as error:
            os.close(self._memory)
            problem = f"the capture process cannot be started ({error.strerror})"
            raise SourceRefusedError(problem, "free memory, or end other processes") from error
        assert self._child.stdout is not None
        self._answers = self._child.stdout.fileno()
        os.set_blocking(self._answers, False)
        self.pid = self._child.pid
        self.send(json.dumps(asdict(job)).encode() + b"\n")

    def send(self, command: bytes) -> None:
        """Write a command; `answer` notices a process that has ended."""
        assert self._child.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._child.stdin.write(command)

    def answer(self, wake: int, timeout_s: float) -> dict[str, Any] | None:
        """The next answer; None if none came in time or `wake` was written to; ``died`` if the process has ended."""
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
                problem = f"the capture process died ({self._exit_reason()})"
                return {"kind": "died", "code": SourceEndedError.code, "problem": problem, "fix": "", "values": {}}
            self._waiting += part
        line, _, rest = bytes(self._waiting).partition(b"\n")
        self._waiting = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def frame(self, answer: dict[str, Any]) -> Frame | None:
        """Copy a frame out and return its slot; None if the process has been ended."""
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

    def _exit_reason(self) -> str:
        try:
            code = self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            return "its output ended"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def end(self, *, kill: bool) -> None:
        """End the process and wait for it; may be called again. Unless `kill` is true, the process first releases its capture."""
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
            with self._using:  # no thread may be reading while this closes
                self._ended = True
                self._child.stdout.close()
                os.close(self._memory)
