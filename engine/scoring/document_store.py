"""Vectors of documents that are kept between calls, for late-interaction models: off unless its size is set.

Bounded in bytes, least recently used first out. Whether a document was seen before can be told from the time that an
answer takes, so entries are found only within the scope that they were made in: caller and ``cache_salt``.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np

from engine.errors import ConfigError
from engine.model_spec import ModelSpec

ENTRY_BYTES = 200
"""Of an entry beside its vectors: key, array and place in the table."""


def document_store(spec: ModelSpec, max_bytes: int) -> DocumentStore:
    """The store of one model. Raises ``ConfigError`` where ``--document-store-bytes`` is for another kind of model."""
    if max_bytes < 0:
        raise ConfigError(
            f"--document-store-bytes {max_bytes}: 0 or more bytes expected.", param="document_store_bytes"
        )
    if max_bytes and spec.head.kind != "late_interaction":
        raise ConfigError(
            f"--document-store-bytes keeps the vectors of documents, and {spec.name} is no late-interaction model: its "
            "documents have none that another query could use.",
            param="document_store_bytes",
        )
    return DocumentStore(max_bytes)


class DocumentStore:
    """Thread-safe. ``max_bytes`` 0: nothing is kept, and nothing is looked up."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.hits = 0
        self.lookups = 0
        self._entries: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def scoped(self, scope: str) -> ScopedStore | None:
        """The entries of one scope; None where nothing is kept."""
        return ScopedStore(self, scope) if self.max_bytes else None

    def get(self, key: bytes) -> np.ndarray | None:
        """The vectors of a document, which is then the last one to be forgotten."""
        with self._lock:
            self.lookups += 1
            found = self._entries.get(key)
            if found is not None:
                self.hits += 1
                self._entries.move_to_end(key)
            return found

    def put(self, key: bytes, vectors: np.ndarray) -> None:
        """Keep vectors, and forget the oldest ones that they leave no room for."""
        size = vectors.nbytes + ENTRY_BYTES
        with self._lock:
            if key in self._entries or size > self.max_bytes:
                return
            self._entries[key] = vectors.copy()  # the array that came may be a view of a whole step's
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= oldest.nbytes + ENTRY_BYTES

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.num_bytes = 0


class ScopedStore:
    """The part of a store that one scope sees."""

    def __init__(self, store: DocumentStore, scope: str) -> None:
        self._store, self._scope = store, hashlib.sha256(scope.encode()).digest()

    def _key(self, token_ids: np.ndarray) -> bytes:
        return hashlib.sha256(self._scope + token_ids.tobytes()).digest()

    def get(self, token_ids: np.ndarray) -> np.ndarray | None:
        """The vectors of a document with these tokens."""
        return self._store.get(self._key(token_ids))

    def put(self, token_ids: np.ndarray, vectors: np.ndarray) -> None:
        """Keep the vectors of a document with these tokens."""
        self._store.put(self._key(token_ids), vectors)
