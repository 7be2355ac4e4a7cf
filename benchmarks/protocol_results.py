"""The published results of `lrdan-edge protocol`, compact: a line a run, and compressed histograms only where pictures show them.

    python benchmarks/protocol_results.py unpack protocol     # the published runs, to add to
    lrdan-edge protocol mnist --root DIR --seed 3 --output protocol
    python benchmarks/protocol_results.py pack protocol

``pack`` writes, for each results file of the folder, into ``benchmarks/results``:

- ``<name>.json``: what `lrdan-edge protocol` wrote, without score histograms; its table is made from this
- ``<name>.histograms.json.xz``: the histograms of the runs that pictures show, by the number of the run; only where there are pictures
- ``<name>.md`` and ``<name>-<class>.png``: copied
"""

import argparse
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HISTOGRAMS = ".histograms.json.xz"


def is_protocol(content: Any) -> bool:
    """Whether a JSON file's content is results of the protocol."""
    return isinstance(content, dict) and {"fingerprint", "entries"} <= content.keys()


def shown(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The histograms that pictures show, by the number of their run: of each column, class and settings the run of the least seed."""
    least: dict[str, int] = {}
    for number, entry in enumerate(entries):
        key = json.dumps([entry["column"], entry["normal_class"], entry["settings"]])
        if entry["histogram"] is not None and (key not in least or entry["seed"] < entries[least[key]]["seed"]):
            least[key] = number
    return {str(number): entries[number]["histogram"] for number in least.values()}


def compact(content: dict[str, Any]) -> str:
    """The results as JSON, one line a run, without histograms."""
    head = json.dumps({**content, "entries": []}, ensure_ascii=False, indent=1)
    rows = [json.dumps({**entry, "histogram": None}, ensure_ascii=False) for entry in content["entries"]]
    begin, end = head.rsplit("[]", 1)
    return begin + "[\n  " + ",\n  ".join(rows) + "\n ]" + end + "\n" if rows else head + "\n"


def pack(folder: Path, results: Path = RESULTS) -> list[Path]:
    """Publish every results file of a folder.

    Args:
        folder: What `lrdan-edge protocol --output` wrote.
        results: Where the published ones lie.

    Returns:
        The JSON files written.
    """
    written = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_bytes())
        if not is_protocol(content):
            continue
        pictures = [folder / f"{path.stem}-{name}.png" for name in sorted({one["normal_class"] for one in content["entries"]})]
        pictures = [picture for picture in pictures if picture.exists()]
        if pictures:
            raw = json.dumps(shown(content["entries"]), separators=(",", ":")).encode()
            (results / (path.stem + HISTOGRAMS)).write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
        (results / path.name).write_text(compact(content), encoding="utf-8")
        for other in (path.with_suffix(".md"), *pictures):
            shutil.copyfile(other, results / other.name)
        written.append(results / path.name)
    return written


def unpack(folder: Path, results: Path = RESULTS) -> list[Path]:
    """Write the published results into a folder as `lrdan-edge protocol --output` goes on with them.

    Args:
        folder: Where to; made if it is not there.
        results: Where the published ones lie.

    Returns:
        The JSON files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_bytes())
        if not is_protocol(content):
            continue
        kept = path.with_name(path.stem + HISTOGRAMS)
        histograms = json.loads(lzma.decompress(kept.read_bytes())) if kept.exists() else {}
        for number, histogram in histograms.items():
            content["entries"][int(number)]["histogram"] = histogram
        target = folder / path.name
        if target.exists():
            raise SystemExit(f"{target} exists: unpack into another folder, or move it away")
        target.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        written.append(target)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["pack", "unpack"])
    parser.add_argument("folder", type=Path, help="The folder of `lrdan-edge protocol --output`.")
    arguments = parser.parse_args()
    for path in (pack if arguments.action == "pack" else unpack)(arguments.folder):
        print(path)


if __name__ == "__main__":
    main()
