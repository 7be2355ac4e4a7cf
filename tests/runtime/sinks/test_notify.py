"""Controllers that are told verdicts, each a real peer: a program, a web server, a TCP server, a serial line."""

import json
import os
import pty
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from loop_parts import BLACK

from lrdan_edge.errors import DataError
from lrdan_edge.runtime.sinks.base import InspectedFrame
from lrdan_edge.runtime.sinks.notify import NotifySink, open_notifiers
from lrdan_edge.runtime.sinks.worker import SinkWorker
from lrdan_edge.runtime.sources.base import CapturedFrame
from lrdan_edge.runtime.verdict import Verdict

VERDICTS = {
    "good": Verdict("good", 0.25, 1.0, 0.5),
    "reject": Verdict("reject", 2.5, 1.0, 0.01),
    "fault": Verdict("fault", None, 1.0, None, fault="no image"),
}


def frame(index: int, outcome: str = "reject", name: str = "a.png") -> InspectedFrame:
    return InspectedFrame(CapturedFrame.of(BLACK, index, "test://", name), VERDICTS[outcome], 1.0)


def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def notifier(address: str, **options: Any) -> NotifySink:
    return open_notifiers([address], **options)[0]


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\nimport sys, time, os\n{text}\n")
    path.chmod(0o755)
    return path


class Controller:
    """A TCP server that collects lines; it can go away and come back on its port."""

    def __init__(self) -> None:
        self.port, self.lines = 0, list[str]()
        self.connections: list[socket.socket] = []

    def start(self) -> None:
        self.server = socket.create_server(("127.0.0.1", self.port))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.server,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._collect, args=(connection,), daemon=True).start()

    def _collect(self, connection: socket.socket) -> None:
        with suppress(OSError), connection.makefile("rb") as file:
            for line in file:
                self.lines.append(line.decode().rstrip("\n"))
                connection.sendall(b"ok\n")

    def stop(self) -> None:
        for one in (self.server, *self.connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.connections.clear()


@pytest.fixture
def controller() -> Iterator[Controller]:
    controller = Controller()
    controller.start()
    yield controller
    controller.stop()


def test_a_program_gets_its_arguments_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told"
    program = script(tmp_path / "a program", "print(sys.argv[1:], file=open(sys.argv[1], 'a'))")
    monkeypatch.setenv("LINE_NAME", "line {7}")
    address = f"exec:'{program}' {told} {{verdict}} {{index}} '{{score:.1f}} %' {{LINE_NAME}} {{name}} '$(x); {{fault}}'"
    worker = SinkWorker(notifier(address))
    worker.put_all([(frame(0, "good"), True), (frame(1, "reject", "b c\n.png"), True), (frame(2, "fault"), True)])
    worker.close()
    assert [eval(line)[1:] for line in told.read_text().splitlines()] == [
        ["reject", "1", "2.5 %", "line {7}", "b c\N{REPLACEMENT CHARACTER}.png", "$(x); "],
        ["fault", "2", " %", "line {7}", "a.png", "$(x); no image"],
    ]
    assert worker.name == "notify exec:a program"
    assert not worker.lost


def test_a_program_that_fails_or_hangs_costs_its_verdicts_only(tmp_path: Path) -> None:
    told = tmp_path / "told"
    text = (
        "verdict, index = sys.argv[2:4]\n"
        "if index == '1' and verdict == 'reject': sys.exit(3)\n"
        "if index == '2': (os.fork(), time.sleep(60))\n"
        "print(*sys.argv[2:], file=open(sys.argv[1], 'a'))"
    )
    address = f"exec:{script(tmp_path / 'eject', text)} {told} {{verdict}} {{index}} {{lost}}"
    worker = SinkWorker(notifier(address, notify_on="all", notify_timeout_s=1.0))
    started = time.monotonic()
    worker.put_all([(frame(0, "good"), True), (frame(1), True)])
    until(lambda: worker.lost[0] == 1)
    time.sleep(0.6)
    worker.put_all([(frame(3, "good"), True)])
    until(lambda: any("works again" in problem for problem in worker.problems))
    worker.put_all([(frame(2), True)])
    until(lambda: worker.lost[0] == 2)
    worker.close()
    assert told.read_text().splitlines()[:3] == ["good 0 ", "fault 1 1", "good 3 "]
    assert worker.problems[0] == "sink notify exec:eject fails and is tried again: exit code 3"
    assert time.monotonic() - started < 15
    assert not worker.stopped


class Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str | None, dict[str, Any]]] = []
        self.answers: list[int] = []
        self.delay_s = 0.0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Web

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay_s)
        self.server.got.append((self.headers["Authorization"], body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        del format, arguments


def test_a_files_name_is_not_an_option(tmp_path: Path) -> None:
    program = script(tmp_path / "show", f"open({str(tmp_path / 'told')!r}, 'a').write(repr(sys.argv[1:]))")
    worker = SinkWorker(notifier(f"exec:{program} {{name}} {{fault}}{{name}} x{{name}} -v {{score}}"))
    worker.put_all([(frame(1, name="-rf.png"), True)])
    worker.close()
    assert worker.problems == []
    assert (tmp_path / "told").read_text() == repr(["./-rf.png", "./-rf.png", "x-rf.png", "-v", "2.5"])


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.shutdown()
    web.server_close()


def test_http_gets_the_object_and_its_secret_stays_secret(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLC_PASSWORD", "p@ss/word")
    sink = notifier(f"http://line:{{PLC_PASSWORD}}@{web.address}/verdicts?token={{PLC_PASSWORD}}", notify_on="all")
    sink.run = "today"
    worker = SinkWorker(sink)
    web.answers = [503, 500, 204]  # tried three times
    worker.put_all([(frame(7, "good"), True)])
    worker.close()
    assert worker.problems == []
    assert [one["index"] for _, one in web.got] == [7, 7, 7]
    authorization, body = web.got[-1]
    assert authorization == "Basic bGluZTpwQHNzL3dvcmQ="
    assert (body["outcome"], body["score"], body["run"]) == ("good", 0.25, "today")
    assert "p@ss" not in worker.name
    assert "p%40ss" not in worker.name


@pytest.mark.parametrize("answer", [404, 302])
def test_http_that_refuses_is_told_again_as_a_gap(web: Web, answer: int) -> None:
    worker = SinkWorker(notifier(f"http://{web.address}/"))
    web.answers = [answer]
    worker.put_all([(frame(1), True)])
    until(lambda: worker.lost[0] == 1)
    assert f"HTTP status {answer}" in worker.problems[0]
    time.sleep(0.6)
    worker.put_all([(frame(2, "good"), True)])
    until(lambda: len(web.got) == 2)
    worker.close()
    gap = web.got[1][1]
    assert (gap["index"], gap["outcome"], gap["lost"]) == (1, "fault", 1)
    assert len(web.got) == 2, "good parts are not told"


def test_an_answer_byte_by_byte_ends_in_time() -> None:
    def trickle() -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=trickle, daemon=True).start()
        worker = SinkWorker(notifier(f"http://127.0.0.1:{listener.getsockname()[1]}/", notify_timeout_s=0.5))
        started, threads = time.monotonic(), threading.active_count()
        for index in (1, 2, 3):
            worker.put_all([(frame(index), True)])
            until(lambda number=index: worker.lost[0] == number)  # type: ignore[misc]
            time.sleep(0.5)
        assert time.monotonic() - started < 6
        assert threading.active_count() <= threads + 1, "one request at a time"
    worker.close()


@pytest.mark.parametrize("address", ["http://{where}/hook?token=s3cret x", "http://{where}/h\u00fc?token=s3cret"])
def test_an_address_that_cannot_be_requested_is_refused_without_its_secret(web: Web, address: str) -> None:
    with pytest.raises(DataError, match="percent-encoded") as caught:
        notifier(address.format(where=web.address))
    assert "s3cret" not in str(caught.value)


def test_a_web_server_that_hangs_delays_nobody(web: Web) -> None:
    web.delay_s = 3
    worker = SinkWorker(notifier(f"http://{web.address}/", notify_timeout_s=0.3))
    started, dropped = time.monotonic(), 0
    for index in range(200):
        dropped += len(worker.put_all([(frame(index), False)]))
        time.sleep(0.002)
    assert time.monotonic() - started < 3
    until(lambda: worker.lost[0] + dropped == 200)
    web.delay_s = 0
    time.sleep(1)
    worker.put_all([(frame(200), False)])
    until(lambda: any(one["index"] == 200 for _, one in web.got))
    worker.close()
    gaps = [one["lost"] for _, one in web.got if "lost" in one]
    assert sum(gaps) == worker.lost[0] + dropped == 200, "each lost verdict is in a gap that was told"


def test_tcp_survives_a_controller_that_restarts(controller: Controller) -> None:
    worker = SinkWorker(notifier(f"tcp://127.0.0.1:{controller.port}", notify_format=r"<{verdict};{index}>\n"))
    worker.put_all([(frame(0), True), (frame(1), True)])
    until(lambda: len(controller.lines) == 2)
    assert len(controller.connections) == 1
    controller.stop()
    worker.put_all([(frame(2), True), (frame(3), True)])
    until(lambda: worker.lost[0] == 2)
    controller.start()
    time.sleep(0.6)
    worker.put_all([(frame(4), True)])
    until(lambda: len(controller.lines) == 4)
    worker.close()
    assert controller.lines == ["<reject;0>", "<reject;1>", "<fault;2>", "<reject;4>"]
    assert "Connection refused" in worker.problems[0]
    assert "works again" in worker.problems[1]


def test_a_controller_that_is_gone_for_too_long_stops_the_sink() -> None:
    stopped: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    worker = SinkWorker(notifier(f"tcp://127.0.0.1:{port}"), timeout_s=0.5, on_timeout=stopped.append)
    for index in range(100):
        worker.put_all([(frame(index), False)])
        time.sleep(0.01)
    worker.close()
    assert worker.stopped
    assert len(stopped) == 1
    assert "Connection refused, for 0.5 s" in stopped[0]
    assert worker.lost[0] == 100


def test_a_serial_line_is_raw_and_a_full_one_is_not_waited_for() -> None:
    master, slave = pty.openpty()
    worker = SinkWorker(notifier(f"serial:{os.ttyname(slave)}?baud=115200&mode=7e1", notify_timeout_s=0.2, notify_on="all"))
    worker.put_all([(frame(5), True), (frame(6, "good"), True)])
    got = b""
    while got.count(b"\n") < 2:
        assert select.select([master], [], [], 10)[0]
        got += os.read(master, 100)
    assert got == b"reject 5 2.5\ngood 6 0.25\n"
    for index in range(4000):
        worker.put_all([(frame(index), False)])
        if worker.lost:
            break
        time.sleep(0.001)
    until(lambda: "the port has taken nothing for 0.2 s" in "".join(worker.problems))
    worker.close()
    os.close(master)
    os.close(slave)


def test_a_serial_line_that_is_pulled_out_is_opened_again(tmp_path: Path) -> None:
    link = tmp_path / "ttyUSB0"
    worker = SinkWorker(notifier(f"serial:{link}"))
    worker.put_all([(frame(0), True)])
    until(lambda: worker.lost[0] == 1)
    assert "No such file" in worker.problems[0]
    master, slave = pty.openpty()
    link.symlink_to(os.ttyname(slave))
    time.sleep(0.6)
    worker.put_all([(frame(1), True)])
    got = b""
    while got.count(b"\n") < 2:
        assert select.select([master], [], [], 10)[0]
        got += os.read(master, 100)
    assert got == b"fault 0 \nreject 1 2.5\n"
    worker.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("exec:", "not an executable program"),
        ("exec:/nowhere/eject {verdict}", "not an executable program"),
        ("exec:true 'x", "cannot be split"),
        ("exec:true {verdikt}", "neither a field of a verdict nor set"),
        ("exec:true {score:d}", "not a valid format"),
        ("ftp://host/x", "not the address of a controller"),
        ("tcp://host", "not the address of a controller"),
        ("tcp://host:99999", "not a valid address"),
        ("http://u:{NOT_SET}@host/", "NOT_SET is not set"),
        ("serial:/dev/ttyS0?baud=115201", "not a baud rate"),
        ("serial:/dev/ttyS0?mode=9N1", "mode="),
        ("serial:/dev/ttyS0?parity=odd", "not a serial line"),
    ],
)
def test_addresses_that_make_no_sense_are_refused_at_the_start(address: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_notifiers([address])


@pytest.mark.parametrize("text", ["{verdikt}", "{0}", "{}", "{verdict!r}", "{score:{index}}", "{verdict", "{score:q}"])
def test_a_format_is_checked_at_the_start(text: str) -> None:
    with pytest.raises(DataError):
        open_notifiers(["tcp://host:1"], notify_format=text)
    with pytest.raises(DataError, match="only TCP and serial lines"):
        open_notifiers(["exec:true"], notify_format="{verdict}")


def test_escapes_of_a_format(controller: Controller) -> None:
    text = r"\x02{{{verdict}\t{p_value}\\n}}\r\n"
    worker = SinkWorker(notifier(f"tcp://127.0.0.1:{controller.port}", notify_format=text))
    worker.put_all([(frame(0), True)])
    until(lambda: controller.lines)
    worker.close()
    assert controller.lines == ["\x02{reject\t0.01\\n}\r"]
