"""Several sources at once, of which some may be dead from the start."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources import CapturedFrame, Source, open_source
from lrdan_edge.runtime.sources.redact import scrubbed


class DeadSource(Source):
    """A source that could not be opened: it delivers nothing but the reason, so that the loop records it."""

    live = False
    fps: float | None = None
    frames: int | None = 0

    def __init__(self, uri: str, error: SourceError) -> None:
        """Stand for `uri`, which could not be opened for `error`."""
        self.uri, self.error = uri, error

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Raise the reason."""
        raise self.error

    def close(self) -> None:
        """Nothing is open."""


def open_sources(
    uris: Sequence[str | os.PathLike[str]], *, opener: Callable[..., Source] = open_source, **options: object
) -> list[Source]:
    """Open several sources at the same time, so that slow cameras do not wait for each other.

    One that cannot be opened does not keep the others from running: a `DeadSource` stands for it, and the loop says so.

    Args:
        uris: Addresses, as `lrdan_edge.open_source` takes them.
        opener: What opens each.
        options: For the opener.

    Raises:
        SourceError: None can be opened.
    """

    def open_one(uri: str | os.PathLike[str]) -> Source:
        try:
            return opener(uri, **options)
        except SourceError as error:
            return DeadSource(scrubbed(os.fspath(uri)), error)

    with ThreadPoolExecutor(max_workers=max(1, len(uris))) as pool:
        sources = list(pool.map(open_one, uris))
    dead = [source for source in sources if isinstance(source, DeadSource)]
    if len(dead) == len(sources) and dead:
        raise (
            dead[0].error
            if len(dead) == 1
            else SourceError(
                f"none of the {len(dead)} sources can be opened: {'; '.join(str(source.error) for source in dead)}"
            )
        )
    return sources
