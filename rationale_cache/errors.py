"""What can go wrong with a cache. All are ValueErrors: the user can act on each, and the message says how."""

from __future__ import annotations


class CacheError(ValueError):
    """A cache that cannot be used as asked."""


class CacheMissing(CacheError):
    """There is no cache at the path."""


class CacheLocked(CacheError):
    """Another process writes; the message names its host and pid."""


class CacheDamaged(CacheError):
    """A checksum does not hold; nothing of the damaged part was returned."""


class CacheFull(CacheError):
    """The disk is full (or a quota is reached); what was committed before stays readable."""


class KeyConflict(CacheError):
    """A second, different content for a key."""
