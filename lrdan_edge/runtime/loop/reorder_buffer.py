"""Batches on their way from inference to decision: bounded, and in order whatever finishes first."""

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handoff(Generic[Item]):
    """Items by number, taken in their numbers' order; who is `size` ahead of the taker waits."""

    def __init__(self, size: int, givers: int) -> None:
        """Start empty, for so many giving threads."""
        self._items: dict[int, Item] = {}
        self._changed = threading.Condition()
        self._size, self._givers, self._next = size, givers, 0
        self._abandoned = False

    def put(self, number: int, item: Item) -> None:
        """Hand over an item; once abandoned, it is discarded."""
        with self._changed:
            while number - self._next >= self._size and not self._abandoned:
                self._changed.wait()
            if not self._abandoned:
                self._items[number] = item
                self._changed.notify_all()

    def leave(self) -> None:
        """A giver says that it gives no more."""
        with self._changed:
            self._givers -= 1
            self._changed.notify_all()

    def get(self) -> Item | None:
        """The next item in order, or None when there will be none: all givers have left, or it is abandoned."""
        with self._changed:
            while self._next not in self._items:
                if self._givers == 0 or self._abandoned:
                    return None
                self._changed.wait()
            item = self._items.pop(self._next)
            self._next += 1
            self._changed.notify_all()
            return item

    def abandon(self) -> None:
        """Nobody takes any more: givers never wait again."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()
