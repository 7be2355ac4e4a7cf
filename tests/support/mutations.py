"""Random changes to a bundle, as an attacker makes them: with hashes and checksums computed again, so that they reach deep code."""

import hashlib
import json
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from graph_mutations import changed_graph
from strangers import KINDS, Put, put_fifo

from lrdan_edge.engines.keys import sign

Random = random.Random
LONG = "A" * 5000
NUMBERS = [0, -1, 1, 2, 3, 64, 255, 65536, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e-320, 1e38, 1e308, True, False, None]
RAW = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" * 400,
    "01",
    "0x10",
    "'a'",
    '"\\ud800"',
    '"\\u0000"',
    "nul",
    "",
    ",",
]
TEXTS = [
    "",
    "x",
    LONG,
    "\x00",
    "\x1b[31mred\x07",
    "a\nb",
    "é\u202e\u2028",
    "{braces} {0}",
    "%s%n",
    "--bundle",
    "../outside/file",
    ".",
]
MARK = "@raw@"


class Mutator:
    """Changes one bundle.

    Attributes:
        bundle: The bundle's folder.
        outside: Sentinel files that nobody may open; `Mutator` itself does not.
        rng: Makes all choices.
        aside: A folder for what is replaced.
        did: What was done, in words.
    """

    def __init__(self, bundle: Path, outside: Path, rng: Random, aside: Path) -> None:
        self.bundle, self.outside, self.rng, self.aside = bundle, outside, rng, aside
        self.did: list[str] = []
        self.raw: list[str] = []

    def mutate(self) -> None:
        """One to three changes."""
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            ways: list[tuple[int, Callable[[], None]]] = [
                (6, self.change_manifest),
                (6, self.change_json),
                (5, self.change_bytes),
                (3, self.change_graph),
                (2, self.change_journal),
                (3, self.replace_kind),
                (1, self.exchange),
            ]
            self.rng.choices([way for _, way in ways], [weight for weight, _ in ways])[0]()

    def names(self) -> list[str]:
        """The bundle's regular files."""
        return [
            path.relative_to(self.bundle).as_posix()
            for path in sorted(self.bundle.rglob("*"))
            if stat.S_ISREG(path.lstat().st_mode) and path.lstat().st_nlink == 1 and path.lstat().st_size < 1 << 24
        ]

    def change_manifest(self) -> None:
        """Change the manifest's structure; the checksum mostly matches."""
        name = self.rng.choice(["manifest.json", "manifest.json", "manifest.json", "signed-manifest.json"])
        if (fields := self.load(name)) is None:
            return
        what = self.structure(fields)
        self.did.append(f"{name}: {what}")
        self.save_manifest(fields, name, valid=self.rng.random() < 0.95)

    def change_json(self) -> None:
        """Change the structure of another JSON file, and mostly its sha256 in the manifest."""
        found = [name for name in self.names() if name.endswith(".json") and "manifest" not in name and "journal" not in name]
        if not found or (fields := self.load(name := self.rng.choice(found))) is None:
            return
        self.did.append(f"{name}: {self.structure(fields)}")
        self.put(name, self.written(fields))

    def change_bytes(self) -> None:
        """Damage any file's bytes."""
        if not (found := self.names()):
            return
        rare = [name for name in found if name.endswith((".sig", "manifest.json", ".cache"))]
        name = self.rng.choice(rare if rare and self.rng.random() < 0.3 else found)
        data = (self.bundle / name).read_bytes()
        for _ in range(self.rng.choice([1, 1, 2, 8])):
            data = self.damage(data)
        self.did.append(f"{name}: bytes")
        if name == "manifest.json" and self.rng.random() < 0.7:
            data = checked(data)
        self.put(name, data)

    def change_graph(self) -> None:
        """Change the structure of a graph or of an engine that is one."""
        found = [name for name in self.names() if name.endswith(".onnx")]
        if not found:
            return
        name = self.rng.choice(found)
        if changed := changed_graph((self.bundle / name).read_bytes(), self.rng, str(self.outside / "file")):
            self.did.append(f"{name}: {changed[1]}")
            self.put(name, changed[0])

    def change_journal(self) -> None:
        """Change the structure of the journal, which mostly still belongs to the manifest."""
        if (fields := self.load(".journal.json")) is None:
            return
        self.did.append(f"journal: {self.structure(fields)}")
        try:
            if self.rng.random() < 0.8:
                fields["replaces"] = hashlib.sha256((self.bundle / "manifest.json").read_bytes()).hexdigest()
            for name in list(fields["staged"]) if self.rng.random() < 0.5 else ():
                path = self.bundle / ".staging" / name
                if path.is_file() and not path.is_symlink() and self.bundle in path.parents:
                    fields["staged"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, TypeError, KeyError, ValueError):
            pass
        self.put(".journal.json", self.written(fields))

    def replace_kind(self) -> None:
        """Put a link, a FIFO, a device or something else in the place of a file or folder."""
        places = [path for path in sorted(self.bundle.rglob("*")) if path.is_dir() or self.rng.random() < 0.5]
        extra = [".lock", ".staging", ".journal.json", ".timing.cache", ".checkpoint.safetensors", "signed-manifest.json"]
        path = self.rng.choice([*places, *(self.bundle / name for name in extra)])
        if not path.parent.is_dir() or path.parent.is_symlink():
            return
        if os.path.lexists(path):
            path.rename(self.aside / f"{self.rng.getrandbits(64)}")
        put = self.rng.choice(PUTS)
        self.did.append(f"{path.relative_to(self.bundle)}: {put.__name__}")
        put(path, self.outside)

    def exchange(self) -> None:
        """Put one file's bytes in the place of another."""
        if len(found := self.names()) < 2:
            return
        first, second = self.rng.sample(found, 2)
        self.did.append(f"{second} is {first}")
        self.put(second, (self.bundle / first).read_bytes())

    def put(self, name: str, data: bytes) -> None:
        """Write a file, and mostly its sha256 into the manifest; a sidecar is mostly signed by this machine again."""
        (self.bundle / name).write_bytes(data)
        if name.startswith("engines/") and name.endswith(".onnx.json") and self.rng.random() < 0.6:
            signature = self.bundle / f"{name.removesuffix('.json')}.sig"
            if not signature.exists() or signature.is_file():
                signature.unlink(missing_ok=True)
                signature.write_text(f"{sign(data)}\n")
        if name in ("manifest.json", "signed-manifest.json", "manifest.sig", ".journal.json") or self.rng.random() < 0.1:
            return
        record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        fields = self.load("manifest.json")
        if isinstance(fields, dict) and isinstance(fields.get("files"), dict) and name in fields["files"]:
            fields["files"][name] = record
            self.save_manifest(fields, "manifest.json")

    def load(self, name: str) -> Any:
        """A JSON file's value, or None if it is none."""
        path = self.bundle / name
        try:
            if not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_nlink > 1 or path.lstat().st_size > 1 << 24:
                return None
            return json.loads(path.read_bytes())
        except (ValueError, OSError, RecursionError):
            return None

    def save_manifest(self, fields: Any, name: str, *, valid: bool = True) -> None:
        if isinstance(fields, dict) and valid and "checksum" in fields:
            fields["checksum"] = ""
        data = self.written(fields)
        (self.bundle / name).write_bytes(checked(data) if valid else data)

    def written(self, value: Any) -> bytes:
        """The value as JSON, with raw text where `structure` put a mark."""
        text = json.dumps(value, indent=2, ensure_ascii=self.rng.random() < 0.9)
        for index, raw in enumerate(self.raw):
            text = text.replace(f'"{MARK}{index}@"', raw)
        return text.encode("utf-8", "surrogatepass")

    def structure(self, root: Any) -> str:
        """Change something somewhere in a JSON value, in place; returns what in words."""
        nodes = list(_nodes(root))
        if not nodes:
            return "nothing"
        where, holder, key = self.rng.choice(nodes)
        way = self.rng.randrange(8)
        if way == 0:
            del holder[key]
            return f"{where} deleted"
        if way == 1 and isinstance(holder, dict):
            new = self.name()
            holder[new] = holder.pop(key)
            return f"{where} renamed {new[:40]!r}"
        if way == 2 and isinstance(holder, list):
            holder[key:key] = [holder[key]] * self.rng.choice([1, 2, 100])
            return f"{where} repeated"
        if way == 3:
            other = self.rng.choice(nodes)
            holder[key] = json.loads(json.dumps(other[1][other[2]])) if other[1] is not holder else None
            return f"{where} = {other[0]}"
        if way == 4 and isinstance(holder, dict):
            new = self.name()
            holder[new] = self.value()
            return f"{where} beside {new[:40]!r}"
        if way == 5 and isinstance(holder, dict):
            self.raw.append(f"null, {json.dumps(str(key))}: {self.rng.choice([*RAW, '1'])}")
            holder[key] = f"{MARK}{len(self.raw) - 1}@"
            return f"{where} twice"
        if way == 6 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = holder[key] * self.rng.choice([-1, 2, 0.5, 1000, 1e30]) + self.rng.choice([0, 1, -1])
            return f"{where} = {holder[key]}"
        holder[key] = new_value = self.value()
        return f"{where} = {str(new_value)[:40]!r}"

    def value(self) -> Any:
        """Any JSON value."""
        rng = self.rng
        way = rng.randrange(8)
        if way < 2:
            return rng.choice(NUMBERS)
        if way < 4:
            return rng.choice([*TEXTS, str(self.outside / "file"), str(self.outside)])
        if way == 4:
            self.raw.append(rng.choice(RAW))
            return f"{MARK}{len(self.raw) - 1}@"
        if way == 5:
            self.raw.append(nested(rng.choice([20, 33, 200, 5000, 200_000]), rng.random() < 0.5))
            return f"{MARK}{len(self.raw) - 1}@"
        return rng.choice(
            [[], {}, [[]], [None] * 70, {"": ""}, [1e300, -1e300], {"sha256": "0" * 64, "bytes": 1}, list(range(3000))]
        )

    def name(self) -> str:
        """A key, often a path or the name of one of the bundle's files."""
        known = ["weights.safetensors", "engines/x.onnx", "decide x", "build-engine x.onnx", "build-engine ../../outside/file"]
        return self.rng.choice([*TEXTS, *known, *self.names(), str(self.outside / "file"), "schema_version", "é" * 300])

    def damage(self, data: bytes) -> bytes:
        """The bytes with one kind of damage."""
        rng = self.rng
        place, span = rng.randrange(len(data) + 1), rng.choice([1, 1, 1, 4, 64, 1000])
        if rng.random() < 0.3:  # headers
            place %= 1024
        head, tail = data[:place], data[place:]
        ways: list[Callable[[], bytes]] = [
            lambda: head + (bytes([tail[0] ^ 1 << rng.randrange(8)]) + tail[1:] if tail else b"\0"),
            lambda: head + (bytes([rng.randrange(256)]) + tail[1:] if tail else b"\0"),
            lambda: head + (bytes([rng.choice([0, 1, 127, 128, 255])]) + tail[1:] if tail else b"\0"),
            lambda: head,
            lambda: head + tail[span:],
            lambda: head + rng.randbytes(span) + tail,
            lambda: head + bytes(span) + tail[span:],
            lambda: head + tail[:span] * 2 + tail[span:],
            lambda: rng.randbytes(span),
            lambda: data + data[:span],
            lambda: head + b"\xff" * span + tail[span:],
            lambda: b"[" * 100_000 + data,
        ]
        return rng.choice(ways)()


def nested(levels: int, lists: bool) -> str:
    """JSON with so many levels."""
    return "[" * levels + "]" * levels if lists else '{"a":' * levels + "1" + "}" * levels


def checked(data: bytes) -> bytes:
    """A manifest with a checksum that matches its bytes, if it has one."""
    start = data.rfind(b'"checksum": "')
    if start < 0:
        return data
    start += len(b'"checksum": "')
    end = data.find(b'"', start)
    bare = data[:start] + data[end:]
    return data[:start] + hashlib.sha256(bare).hexdigest().encode() + data[end:]


def _nodes(value: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every place in a JSON value: its path, the object or list that holds it, and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield f"{where}/{key}", value, key
        if not isinstance(each, list) or len(each) < 20:
            yield from _nodes(each, f"{where}/{key}")
        else:
            yield f"{where}/{key}/7", each, 7


def put_device(path: Path, outside: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except PermissionError:
        put_fifo(path, outside)


def put_huge(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def put_deep_folder(path: Path, _: Path) -> None:
    path.joinpath(*["deeper"] * 12).mkdir(parents=True)


def put_empty(path: Path, _: Path) -> None:
    path.touch()


def put_nothing(path: Path, outside: Path) -> None:
    pass


PUTS: list[Put] = [*KINDS, put_device, put_huge, put_deep_folder, put_empty, put_nothing]
