"""Opens thousands of mutated bundles, and reports everything that is neither a working bundle nor a clear error.

    python tests/bundle/fuzz_bundles.py --cases 100000 --seed 1

Each case copies a small real bundle, changes it (`mutations.py`) and uses it as the commands do. Findings are: any exception but an
`LrdanError`, a use that takes 5 seconds of processor time or a minute, a dead process, a file outside the bundle that is opened or
changed, a started program, and another verdict than that of the signed bundle although a signature was required. A case is repeated
with ``--first CASE --cases 1``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support")]


def main() -> int:
    """Run the cases in worker processes, which are replaced when they die; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        from fuzz_worker import work

        work(given.worker, given.seed, range(given.first, given.first + given.cases))
        return 0
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        return _run(folder, given.cases, given.seed, given.first)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, cases: int, seed: int, first: int) -> int:
    started, ends, findings = time.monotonic(), Counter[str](), 0
    place, end = first, first + cases
    while place < end:
        words = [sys.executable, "-P", __file__, "--worker", str(folder), "--seed", str(seed)]
        words += ["--first", str(place), "--cases", str(min(end - place, 5000))]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as worker:
            assert worker.stdout is not None
            ready = False
            for line in worker.stdout:
                ready = True  # its first line says so
                if not line.startswith('{"case"'):
                    continue
                found = json.loads(line)
                place = found["case"] + 1
                ends.update(found["ends"])
                for problem in found["findings"]:
                    findings += 1
                    print(f"FINDING case {found['case']} ({'; '.join(found['did'])}): {problem}", flush=True)
                if place % 1000 == 0:
                    print(f"{place} cases, {findings} findings, {time.monotonic() - started:.0f} s", flush=True)
        if not ready:
            raise SystemExit("the bundles cannot be made or used")
        if worker.returncode:
            findings += 1
            print(f"FINDING case {place}: the process ended with {worker.returncode}", flush=True)
            place += 1
    print(f"\n{cases} cases, seed {seed}, {findings} findings, {time.monotonic() - started:.0f} s\n")
    for what, count in sorted(ends.items()):
        print(f"| {what} | {count} |")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
