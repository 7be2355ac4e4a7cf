"""A sink that writes JSON Lines to a stream, such as standard output."""

import errno
import os
import select

from lrdan_edge.errors import SinkError
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame
from lrdan_edge.runtime.sinks.records import Numbering, as_gap_record, as_line, as_record


class StreamSink:
    """One line per frame, as in ``verdicts.jsonl``, written at once. A reader that goes away ends the run."""

    name = "stream"
    pictures = False
    retries = True

    def __init__(self, descriptor: int, *, run: str = "") -> None:
        """Write to an open file descriptor, which stays open.

        Args:
            descriptor: A pipe, file or terminal.
            run: The run's name, for its lines; empty: the lines name none.
        """
        self.numbering = Numbering()
        self._descriptor, self._run = descriptor, run
        self._torn = b""
        self._torn_of: object = None

    def write(self, inspected: InspectedFrame) -> None:
        """Write one line; raises SinkError if nobody reads any more."""
        self._write(as_record(inspected, self.numbering.of(inspected), self._run), inspected)

    def write_gap(self, gap: Gap) -> None:
        """Write a line that is a fault, and says how many frames have no line of their own."""
        self._write(as_gap_record(gap, self.numbering.of(gap.first), self._run), gap)

    def flush(self) -> None:
        """Do nothing: each line is written at once."""

    def close(self) -> None:
        """Do nothing: the descriptor is the caller's."""

    def _write(self, record: dict[str, object], of: object) -> None:
        """Write the rest of a line that an error has cut, then this line, unless it was that one."""
        data = self._torn if self._torn and self._torn_of is of else self._torn + as_line(record)
        whole = len(data)
        try:
            while data:
                data = data[self._send(data) :]
        except BrokenPipeError as error:
            raise SinkError("its reader has closed it") from error
        except OSError as error:
            error.filename = error.filename or "the stream"
            raise
        finally:
            self._torn, self._torn_of = (data, of) if len(data) < whole else (self._torn, self._torn_of)

    def _send(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
        poll = select.poll()  # somebody has made the stream non-blocking
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll()
        return 0
