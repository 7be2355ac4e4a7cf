"""Notifies a controller of verdicts: by a program, HTTP, TCP or a serial line."""

import os
import re
import shlex
import shutil
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from lrdan_edge.errors import DataError, SourceAddressError
from lrdan_edge.runtime.sinks.base import Gap, InspectedFrame, UndeliveredError, without_pictures
from lrdan_edge.runtime.sinks.channels import Channel, Command, HttpPost, SerialLine, TcpLine
from lrdan_edge.runtime.sinks.records import Numbering, as_gap_record, as_record
from lrdan_edge.runtime.sinks.template import Template
from lrdan_edge.runtime.sources.addresses import filled
from lrdan_edge.runtime.sources.redact import redact

NotifyOn = Literal["rejects", "faults", "all"]
LINE = r"{verdict} {index} {score}\n"
TIMEOUT_S = 2.0
_AGAIN_S = 0.5
_OUTCOMES = {"rejects": {"reject", "fault"}, "faults": {"fault"}, "all": {"good", "reject", "fault"}}
_GIVE = "give exec:'PROGRAM ARGUMENT…', http://…, https://…, tcp://HOST:PORT or serial:/dev/…"


class NotifySink:
    """Sends each verdict once. Those that could not be delivered are counted, and sent as one fault when the controller is back.

    Attributes:
        numbering: The numbers of the frames.
        run: The run's name; empty: it is not sent.
    """

    pictures = False
    retries = True
    queue_size = 16  # a verdict that waits for longer concerns a part that is gone

    def __init__(self, channel: Channel, notify_on: NotifyOn = "rejects", timeout_s: float = TIMEOUT_S) -> None:
        """Keep the channel.

        Args:
            channel: Leads to the controller.
            notify_on: Which verdicts to send: ``rejects`` (and faults), ``faults`` or ``all``.
            timeout_s: Most seconds for one verdict.
        """
        self.name = f"notify {channel.name}"
        self.numbering, self.run = Numbering(), ""
        self._channel, self._outcomes, self._timeout_s = channel, _OUTCOMES[notify_on], timeout_s
        self._owed: dict[int, Gap] = {}
        self._why, self._again_at = "", 0.0

    def wants(self, inspected: InspectedFrame) -> bool:
        """Whether to send this verdict, or to try to send the fault for those that were lost."""
        return inspected.verdict.outcome in self._outcomes or bool(self._owed)

    def write(self, inspected: InspectedFrame) -> None:
        """Send one verdict; raises UndeliveredError."""
        wanted = inspected.verdict.outcome in self._outcomes
        try:
            self._tell_owed()
            if wanted:
                self._channel.send(as_record(inspected, self.numbering.of(inspected), self.run), self._timeout_s)
        except OSError as error:
            self._fail(error)
            if wanted:
                self._owe(Gap(without_pictures(inspected), without_pictures(inspected), 1, self._why))
            raise UndeliveredError(self._why, lost=int(wanted)) from error

    def write_gap(self, gap: Gap) -> None:
        """Send that frames were lost; if that fails, raises UndeliveredError and sends it later."""
        self._owe(gap)
        try:
            self._tell_owed()
        except OSError as error:
            self._fail(error)
            raise UndeliveredError(self._why, lost=0) from error

    def flush(self) -> None:
        """Raise UndeliveredError while a fault is owed: the controller may not be back."""
        if self._owed:
            raise UndeliveredError(self._why, lost=0)

    def close(self) -> None:
        """Try once more to send what is owed, then close the channel."""
        self._again_at = 0.0
        with suppress(OSError):
            self._tell_owed()
        self._channel.close()

    def _tell_owed(self) -> None:
        if self._owed and time.monotonic() < self._again_at:
            raise OSError(self._why)  # the line must not wait for each part
        for number, gap in list(self._owed.items()):
            self._channel.send(as_gap_record(gap, self.numbering.of(gap.first), self.run), self._timeout_s)
            del self._owed[number]

    def _fail(self, error: OSError) -> None:
        why = error.strerror or str(error) or type(error).__name__
        if why != self._why or time.monotonic() >= self._again_at:
            self._why, self._again_at = why, time.monotonic() + _AGAIN_S

    def _owe(self, gap: Gap) -> None:
        known = self._owed.setdefault(gap.first.source_number, gap)
        if known is not gap:
            known.last, known.count = gap.last, known.count + gap.count


def open_notifiers(
    notify: Sequence[str],
    *,
    notify_format: str | None = None,
    notify_on: NotifyOn = "rejects",
    notify_timeout_s: float = TIMEOUT_S,
) -> list[NotifySink]:
    """A sink for each address.

    Args:
        notify: ``exec:PROGRAM ARGUMENT…`` (no shell; arguments may hold fields, see `Template`), ``http://…`` or ``https://…`` (POST of the
            JSON object), ``tcp://HOST:PORT`` or ``serial:/dev/ttyUSB0?baud=115200&mode=8N1``. ``{NAME}`` stands for an environment
            variable.
        notify_format: The text for TCP and serial lines; None: `LINE`.
        notify_on: See `NotifySink`.
        notify_timeout_s: See `NotifySink`.

    Raises:
        DataError: An address or the text is not valid, a program does not exist, or a variable is not set.
    """
    channels = [_channel(address, notify_format or LINE) for address in notify]
    if notify_format is not None and not any(isinstance(one, TcpLine | SerialLine) for one in channels):
        raise DataError(
            "only TCP and serial lines have a format", "leave out {notify_format}, or give a TCP or serial line as {notify}"
        )
    return [NotifySink(channel, notify_on, notify_timeout_s) for channel in channels]


def _channel(address: str, text: str) -> Channel:
    if address.startswith("exec:"):
        return _command(address.removeprefix("exec:"))
    shown = redact(address)
    try:
        url = filled(address)
    except SourceAddressError as error:
        raise DataError(error.problem, error.fix) from error
    if address.startswith("serial:"):
        return _serial(shown, url.removeprefix("serial:"), text)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise DataError(f"{shown} is not a valid address ({error})", _GIVE) from error
    if parts.scheme in ("http", "https") and host:
        if not re.fullmatch("[!-~]+", url):
            raise DataError(f"the address of {host} has spaces or other characters that none has", "write them percent-encoded")
        return HttpPost(shown, url)
    if parts.scheme == "tcp" and host and port and not (parts.path or parts.query):
        return TcpLine(shown, host, port, Template(text))
    raise DataError(f"{shown} is not the address of a controller", _GIVE)


def _command(line: str) -> Command:
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise DataError(f"exec: the command cannot be split into words ({error})", "quote it as for a shell") from error
    program = shutil.which(words[0]) if words else None
    if program is None:
        raise DataError(f"exec: {words[0] if words else 'no program'} is not an executable program", "give its path")
    return Command(
        f"exec:{Path(program).name}", [Template(word, _variable) for word in [program.replace("{", "{{"), *words[1:]]]
    )


def _variable(name: str) -> str:
    if name not in os.environ:
        raise DataError(f"exec: {{{name}}} is neither a field of a verdict nor set in the environment", "set it")
    return os.environ[name]


def _serial(shown: str, address: str, text: str) -> SerialLine:
    path, _, query = address.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    baud, mode = settings.pop("baud", "9600"), settings.pop("mode", "8N1").upper()
    if settings or not path:
        raise DataError(f"{shown} is not a serial line", "write serial:/dev/ttyUSB0?baud=115200&mode=8N1")
    if not re.fullmatch("[78][NEO][12]", mode):
        raise DataError(
            f"{shown}: mode={mode} is not valid", "write data bits, parity and stop bits, as in mode=8N1 or mode=7E1"
        )
    speed = getattr(termios, f"B{baud}", None) if baud.isdigit() else None
    if not isinstance(speed, int) or not speed:
        raise DataError(f"{shown}: baud={baud} is not a baud rate of this system", "write baud=9600 or baud=115200")
    return SerialLine(shown, path, speed, mode, Template(text))
