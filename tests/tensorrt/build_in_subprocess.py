"""Run by the fixture `rtx_build`: builds one engine as its argument (JSON) asks, prints what came of it as JSON."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from lrdan_edge.backends.nvidia import Gpu
from lrdan_edge.engines.tensorrt import build as tensorrt
from lrdan_edge.engines.tensorrt.build import build_plan
from lrdan_edge.engines.tensorrt.options import BuildOptions
from lrdan_edge.errors import LrdanError

heard = threading.Event()


def hear(number: int, frame: FrameType | None) -> None:
    heard.set()
    signal.default_int_handler(number, frame)


def main() -> dict[str, object]:
    signal.signal(signal.SIGINT, hear)
    request = json.loads(sys.argv[1])
    options = request["options"]
    if name := request["gpu"]:
        vars(tensorrt)["find_gpu"] = lambda: Gpu(name, "9.0", "13.0", integrated=False)
    options |= {key: Path(options[key]) for key in ("timing_cache", "log_path") if key in options}
    if "batch" in options:
        options["batch"] = tuple(options["batch"])
    progress: list[tuple[str, float]] = []

    def report(phase: str, share: float) -> None:
        progress.append((phase, share))
        if len(progress) == request["interrupt"]:
            os.kill(os.getpid(), signal.SIGINT)
            heard.wait(60)  # a busy machine may take its time; a real step may last as long
            threading.Event().wait(0.5)  # and for the main thread to pass it on

    try:
        graph = Path(request["graph"])
        built = build_plan(graph.read_bytes(), BuildOptions(**options), report, graph.name)
    except (LrdanError, KeyboardInterrupt) as error:
        return {"error": type(error).__name__, "message": str(error), "progress": progress}
    Path(request["plan"]).write_bytes(built.plan)
    return {"details": built.details, "progress": progress}


print(json.dumps(main()))
