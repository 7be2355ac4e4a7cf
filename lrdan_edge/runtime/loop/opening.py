"""Opens several sources at once; some of them may fail."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lrdan_edge.errors import SourceError
from lrdan_edge.runtime.sources import CapturedFrame, Source, open_source
from lrdan_edge.runtime.sources.redact import redact


class FailedSource(Source):
    """Replaces a source that could not be opened. Iterating raises the error, so that the loop records it."""

    live = False
    fps: float | None = None
    frames: int | None = 0

    def __init__(self, uri: str, error: SourceError) -> None:
        """Keep the address, without credentials, and the error."""
        self.uri, self.error = uri, error

    def __iter__(self) -> Iterator[CapturedFrame]:
        """Raise the error."""
        raise self.error

    def close(self) -> None:
        """Nothing is open."""


def open_sources(
    uris: Sequence[str | os.PathLike[str]], *, opener: Callable[..., Source] = open_source, **options: object
) -> list[Source]:
    """Open several sources at the same time, so that slow cameras do not delay each other.

    A `FailedSource` replaces a source that cannot be opened; the others run.

    Args:
        uris: Addresses, as `lrdan_edge.open_source` takes them.
        opener: Opens one source.
        options: Further arguments of `opener`.

    Raises:
        SourceError: No source can be opened; with only one address, its error.
    """

    def open_one(uri: str | os.PathLike[str]) -> Source:
        try:
            return opener(uri, **options)
        except SourceError as error:
            return FailedSource(redact(os.fspath(uri)), error)

    with ThreadPoolExecutor(max_workers=max(1, len(uris))) as pool:
        sources = list(pool.map(open_one, uris))
    failed = [source.error for source in sources if isinstance(source, FailedSource)]
    if len(sources) == len(failed) == 1:
        raise failed[0]
    if failed and len(failed) == len(sources):
        raise SourceError(f"none of the {len(failed)} sources can be opened: {'; '.join(map(str, failed))}")
    return sources
