"""One process that mutates bundles and uses them; see ``tests/bundle/fuzz_bundles.py``."""

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import sysconfig
import traceback
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from bundle_uses import Use, Uses, make_bases
from mutations import Mutator

import lrdan_edge
from lrdan_edge.bundle import bundle as bundle_module
from lrdan_edge.engines.keys import KEY_VARIABLE
from lrdan_edge.errors import LrdanError, SignatureError

SECONDS = 5  # of processor time
WAITING = 60  # seconds in all: the machine may be busy
MEMORY = 8 << 30


class HangError(BaseException):
    """A use takes too long. Not an Exception, so that nothing under test handles it."""


def work(folder: Path, seed: int, cases: range) -> None:
    """Run cases and print one line of JSON for each."""
    faulthandler.enable()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")
    os.environ[KEY_VARIABLE] = str(folder / "keys/engine.key")
    os.fsync = lambda _: None  # type: ignore[assignment]  # nothing here is about a power cut
    worker = Worker(folder)
    for name in ("versions", "check_graph"):  # of the same packages and, mostly, graphs
        setattr(bundle_module, name, lru_cache(64)(getattr(bundle_module, name)))
    print("ready", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for case in cases:
        print(json.dumps({"case": case, **worker.run(random.Random(f"{seed}:{case}"))}), flush=True)


def _hang(*_: object) -> None:
    raise HangError


class Watch:
    """Notes what the process opens, changes and starts, by an audit hook."""

    def __init__(self, allowed: list[Path]) -> None:
        paths = [*allowed, Path(sys.prefix), Path(sys.base_prefix), Path(lrdan_edge.__file__).parent, Path(__file__).parents[1]]
        paths += [Path(path) for path in sysconfig.get_paths().values()]
        self.allowed = tuple({f"{form}/" for path in paths for form in (path, path.resolve())})
        self.system = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/", "/etc/", "/lib/")
        self.active = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
            self.seen.append(f"{event} {arguments}")
        elif event == "open" or event.startswith(
            ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.t")
        ):
            for path in arguments[: 2 if event != "open" else 1]:
                text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
                inside = f"{text}/".startswith(self.allowed) or (event == "open" and text.startswith(self.system))
                if ".." in text.split("/") or (text.startswith("/") and not inside):
                    self.seen.append(f"{event} {text}")


class Worker:
    """Mutates and uses bundles. Below `folder`: the bundles to copy, the sentinels ``outside``, and the case's own folder."""

    def __init__(self, folder: Path) -> None:
        self.outside, self.case, self.aside = folder / "outside", folder / "case", folder / "aside"
        if not (folder / "ready").exists():
            shutil.rmtree(folder / "bases", ignore_errors=True)
            make_bases(folder)
            (folder / "ready").touch()
        self.bases = sorted((folder / "bases").iterdir())
        self._prepare_sentinels()
        self.uses = Uses(folder)
        self.aside.mkdir(exist_ok=True)
        for base in self.bases:  # so that imports and caches open nothing later
            for use in self.uses.all().values():
                shutil.rmtree(self.case, ignore_errors=True)
                shutil.copytree(base, self.case)
                with suppress(*[SignatureError] if base.name == "interrupted" else []):
                    use(self.case)
        self.watch = Watch([self.case, self.aside, folder / "keys", folder / "data", folder / "tmp"])

    def _prepare_sentinels(self) -> None:
        """Files of the names that a bundle has, never read: a read would change their time of access."""
        for name in ("file", "folder/manifest.json", "folder/scores.json", "folder/00.png", "folder/decision.json"):
            path = self.outside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("somebody's own")
        self.sentinels = [self.outside, *sorted(self.outside.rglob("*"))]
        for path in self.sentinels:
            os.utime(path, ns=(10**17, 10**18))
        self.before = self._snapshot()

    def _snapshot(self) -> list[tuple[int, ...]]:
        files = [path.lstat() for path in self.sentinels if not path.is_dir()]
        folders = [path.lstat() for path in self.sentinels if path.is_dir()]
        return [
            *((found.st_mode, found.st_size, found.st_mtime_ns, found.st_atime_ns) for found in files),
            *((found.st_mode, found.st_mtime_ns) for found in folders),
        ]

    def run(self, rng: random.Random) -> dict[str, Any]:
        """One case: what was done to the bundle, how the uses ended, and findings."""
        base = rng.choice(self.bases)
        for old in (self.case, self.aside):
            shutil.rmtree(old, ignore_errors=True)
        self.aside.mkdir()
        shutil.copytree(base, self.case)
        mutator = Mutator(self.case, self.outside, rng, self.aside)
        while not mutator.did:
            mutator.mutate()
        found, ends = [], Counter[str]()
        for name, use in self.uses.some(rng).items():
            end, problem = self._use(use)
            ends[f"{name}: {end}"] += 1
            if problem:
                found.append(f"{name}: {problem}")
        if (now := self._snapshot()) != self.before:
            found.append(f"sentinels changed: {[pair for pair in zip(self.before, now, strict=True) if pair[0] != pair[1]]}")
            self._prepare_sentinels()
        return {"base": base.name, "did": mutator.did, "ends": ends, "findings": found}

    def _use(self, use: Use) -> tuple[str, str]:
        """How a use ended, and the finding if that was wrong."""
        faulthandler.dump_traceback_later(2 * WAITING, exit=True)  # native code does not see the signals
        signal.setitimer(signal.ITIMER_REAL, WAITING)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        self.watch.seen, self.watch.active = [], True
        problem, end = "", "works"
        try:
            use(self.case)
        except LrdanError as error:
            end = type(error).__name__
            said = error.worded()
            if "\n" in said or len(said) > 3000:
                problem = f"the message has {len(said)} characters or several lines: {said[:200]!r}"
        except (Exception, HangError):
            end, problem = "finding", traceback.format_exc(limit=-8)
        finally:
            for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
                signal.setitimer(timer, 0)
            faulthandler.cancel_dump_traceback_later()
            self.watch.active = False
        if self.watch.seen:
            problem = f"{problem} opened {self.watch.seen[:5]}"
        return end, problem
