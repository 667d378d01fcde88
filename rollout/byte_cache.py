"""Values kept up to a number of bytes, the least recently used dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

T = TypeVar("T")


class ByteCache:
    """Thread-safe. Two threads that miss at once both make the value, and the first result is kept.

    A value larger than the limit is made and not kept.
    """

    def __init__(self, limit_bytes: int, size: Callable[[object], int]) -> None:
        """`size`: the bytes of a value."""
        self._limit, self._size = limit_bytes, size
        self._bytes = 0
        self._items: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def __contains__(self, key: Hashable) -> bool:
        return key in self._items

    def get_by(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value kept under a key, or that of `make`, which is then kept if it fits."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return cast(T, self._items[key])
        value = make()
        if self._size(value) <= self._limit:
            self._keep(key, value)
        return value

    def _keep(self, key: Hashable, value: object) -> None:
        with self._lock:
            if key in self._items:
                return
            self._items[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._limit:
                self._bytes -= self._size(self._items.popitem(last=False)[1])
