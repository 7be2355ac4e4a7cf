"""Texts with fields of a verdict, such as ``{verdict} {index}``, for a controller."""

import re
from collections.abc import Callable, Iterator, Mapping
from string import Formatter

from lrdan_edge.errors import DataError

FIELDS = (
    "verdict",
    "index",
    "score",
    "threshold",
    "p_value",
    "name",
    "source",
    "time",
    "fault",
    "lost",
    "frame_outcome",
    "area",
    "latency_ms",
    "run",
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
_NUMBERS = frozenset({"index", "score", "threshold", "p_value", "lost", "area", "latency_ms"})


class _Empty:
    """A value that this verdict does not have; empty in any format."""

    def __format__(self, _: str) -> str:
        return ""


class Template:
    r"""A text with fields in braces, ``{{`` and ``}}`` for braces, and ``\n``, ``\r``, ``\t``, ``\\`` and ``\xNN``."""

    def __init__(self, text: str, other: Callable[[str], str] | None = None) -> None:
        """Parse the text.

        Args:
            text: The text; a field may have a format (``{score:.3f}``).
            other: The value of names that are not fields; may raise DataError. None: there are none.

        Raises:
            DataError: A field does not exist, or its format does not suit it.
        """
        parts: list[tuple[str, str | None, str]] = []
        try:
            for literal, name, form, conversion in Formatter().parse(text):
                parts.append((re.sub(r"\\(x[0-9a-fA-F]{2}|[nrt\\])", _escaped, literal), None, ""))
                if name is None:
                    continue
                if conversion or "{" in (form or "") or (name not in FIELDS and other is None):
                    raise DataError(f"{text!r}: {{{name}}} is not a field", "use one of {fields}", fields=", ".join(FIELDS))
                if name in FIELDS:
                    format(1.5 if name in _NUMBERS - {"index", "lost", "area"} else 1 if name in _NUMBERS else "", form or "")
                    parts.append(("", name, form or ""))
                elif other is not None:
                    parts.append((other(name), None, ""))
        except ValueError as error:
            raise DataError(f"{text!r} is not a valid format ({error})", "write fields as {{verdict}}") from error
        self._parts = parts

    def fill(self, record: Mapping[str, object]) -> str:
        """The text for an object of ``verdicts.jsonl``; control characters in its values become �."""
        return "".join(text for text, _ in self._filled(record))

    def argument(self, record: Mapping[str, object]) -> str:
        """As `fill`, for a program: a value that begins with ``-``, such as a file's name, is not an option (``./-``)."""
        filled = [(text, name) for text, name in self._filled(record) if text]
        option = bool(filled) and filled[0][0].startswith("-") and filled[0][1] is not None and filled[0][1] not in _NUMBERS
        return ("./" if option else "") + "".join(text for text, _ in filled)

    def _filled(self, record: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
        """The texts, each with the name of its field, or None."""
        for literal, name, form in self._parts:
            yield (literal if name is None else format(_value(record, name), form)), name


def _escaped(match: re.Match[str]) -> str:
    return chr(int(match[1][1:], 16)) if match[1][0] == "x" else _ESCAPES[match[1]]


def _value(record: Mapping[str, object], name: str) -> object:
    value = record.get("outcome" if name == "verdict" else name)
    if value is None:
        return _Empty()
    if isinstance(value, str):  # a file's name must not end the line
        return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
    return value
