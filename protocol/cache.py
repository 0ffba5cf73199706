"""Caches whose keys come from strangers: bounded in entries and in bytes, and all of them known.

Whoever keeps answers by a name that a client sent makes a ``Family`` and takes its caches from there.
Three rules hold for all of them:

- A key is validated, at least by its length, before it is looked up or stored. A longer one than the
  family takes is not stored: the cache forgets it, it never fails.
- What was refused is not stored, so refusals cost no memory.
- The bound in bytes is over all caches of the family. There may be one for each token, and a bound of
  each would be none of all.

Reading is reading a ``dict``, in C. Writing counts.
"""

from __future__ import annotations

from sys import getsizeof
from typing import Any, Final, Generic, NamedTuple, TypeVar
from weakref import ReferenceType, ref

__all__ = ["FAMILIES", "Cache", "Census", "Family"]

V = TypeVar("V")

ENTRY_BYTES: Final = 100
"""What an entry takes in a ``dict`` of CPython 3.11 just after it has grown, beside its key."""


class Census(NamedTuple):
    """What the caches of a family hold now."""

    caches: int
    entries: int
    bytes: int


class Cache(dict[str, V]):
    """Answers by name. Only ``cache[key] = value`` and ``clear`` may change it.

    Values are taken for shared: they are not counted.
    """

    __slots__ = ("__weakref__", "_family", "bytes")

    def __init__(self, family: Family[V]) -> None:
        super().__init__()
        self._family = family
        self.bytes = 0
        """Memory of its entries."""

    def __setitem__(self, key: str, value: V) -> None:
        """Keep ``value``, at the price of others; not when the key is longer than the family takes."""
        family = self._family
        if len(key) > family.max_key:
            return
        if key not in self:
            if len(self) >= family.max_entries:
                self.clear()
            size = getsizeof(key) + ENTRY_BYTES
            family._grow(self, size)
            self.bytes += size
        super().__setitem__(key, value)

    def clear(self) -> None:
        """Forget everything."""
        self._family._shrink(self)
        self.bytes = 0
        super().clear()

    def __del__(self) -> None:
        self._family._shrink(self)


class Family(Generic[V]):
    """Caches of one kind, which share a bound in bytes. The cache that began first gives way first."""

    def __init__(self, name: str, *, max_bytes: int, max_entries: int, max_key: int) -> None:
        """``max_entries`` of one cache, ``max_bytes`` of all together, ``max_key`` characters of a key."""
        self.name = name
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.max_key = max_key
        self._bytes = 0
        self._filled: dict[int, ReferenceType[Cache[V]]] = {}
        FAMILIES.append(self)

    def new(self) -> Cache[V]:
        """Make an empty cache. It costs nothing but itself until something is kept in it."""
        return Cache(self)

    def census(self) -> Census:
        """Count what is there, from the caches themselves."""
        caches = [cache for cache in (reference() for reference in self._filled.values()) if cache]
        return Census(len(caches), sum(map(len, caches)), sum(cache.bytes for cache in caches))

    def clear(self) -> None:
        """Empty all caches."""
        while self._filled:
            self._empty_first()

    def _grow(self, cache: Cache[V], size: int) -> None:
        while self._filled and self._bytes + size > self.max_bytes:
            self._empty_first()
        if id(cache) not in self._filled:
            self._filled[id(cache)] = ref(cache)
        self._bytes += size

    def _shrink(self, cache: Cache[V]) -> None:
        if self._filled.pop(id(cache), None) is not None:
            self._bytes -= cache.bytes

    def _empty_first(self) -> None:
        first = next(iter(self._filled))
        cache = self._filled[first]()
        if cache is not None:
            cache.clear()
            return
        # It is being collected as part of a cycle: its reference ends before it takes itself out.
        del self._filled[first]
        self._bytes = self.census().bytes


FAMILIES: Final[list[Family[Any]]] = []
"""Every family of the process, so that a test can look at all caches after hostile input."""
