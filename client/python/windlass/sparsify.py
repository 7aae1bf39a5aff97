"""Sparsifiers: of each push only the rows that matter are sent now."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint64
from typing import TYPE_CHECKING, Any, Optional

import numpy

from .arguments import keys_of, push_options
from .library import encoded, library
from .pending import PendingPush

if TYPE_CHECKING:
    from .table import Rows, Table


class Sparsifier:
    """Filters that choose which rows of each push are sent, and the rows that they hold back.

    Those are added to the next push of the same rows, so that every value counts once in the end. Of one table and one
    worker; made by `Table.sparsifier`.
    """

    def __init__(self, table: "Table", filters: str) -> None:
        self._handle = 0
        self._table = table
        self._names = filters.split(",")
        self._handle = library.handle("make_sparsifier", table._open(), encoded(filters, "filters"))
        table._client._children.add(self)

    def push(
        self,
        rows: "Rows",
        values: Any,
        weights: Optional[Any] = None,
        *,
        after: int = 0,
        clock: Optional[int] = None,
        sync: bool = False,
        filters: str = "",
    ) -> Optional[PendingPush]:
        """Starts a push of those rows that the filters choose, and holds the others; None where none was chosen.

        `weights` are the rows as they were pulled, which only `kkt` looks at. The other arguments are those of
        `Table.push`. Where this raises, nothing was sent, and what was held before still is. A push that fails later
        takes the rows with it that it sent.
        """
        function, arguments, count = self._table._rows("push_chosen", rows)
        given = self._table._values(values, count)
        pulled = None if weights is None else self._table._values(weights, count)
        options = push_options(after, clock, sync, filters)
        pushed = c_uint64()
        library.call(
            function,
            self._open(),
            *arguments,
            given.ctypes.data,
            None if pulled is None else pulled.ctypes.data,
            given.size,
            options,
            byref(pushed),
        )
        return self._pending(pushed)

    def push_held(
        self,
        *,
        after: int = 0,
        clock: Optional[int] = None,
        sync: bool = False,
        filters: str = "",
    ) -> Optional[PendingPush]:
        """Starts a push of all rows that are held; None where none was."""
        pushed = c_uint64()
        options = push_options(after, clock, sync, filters)
        library.call("push_held", self._open(), options, byref(pushed))
        return self._pending(pushed)

    @property
    def held_rows(self) -> int:
        """How many rows are held: at most 4,194,304; rows beyond are sent."""
        count = c_size_t()
        library.call("held_rows", self._open(), byref(count))
        return count.value

    def held(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The rows that are held: their keys, ascending, and values of shape (rows, width).

        Save them, give them to `hold` after a restart, and nothing is lost.
        """
        keys = numpy.zeros(self.held_rows, dtype=numpy.uint64)
        values = numpy.zeros((keys.size, self._table.width), dtype=self._table.dtype)
        library.call(
            "held", self._open(), keys.ctypes.data, keys.size, values.ctypes.data, values.size
        )
        return keys, values

    def hold(self, keys: Any, values: Any) -> None:
        """Adds rows to those that are held, for instance what `held` gave before a restart."""
        keys = keys_of(keys)
        given = self._table._values(values, keys.size)
        library.call("hold", self._open(), keys.ctypes.data, keys.size, given.ctypes.data, given.size)

    @property
    def bytes_saved(self) -> dict[str, int]:
        """Bytes of keys and values that each filter kept from being sent, by name."""
        saved, bytes_ = {}, c_uint64()
        for name in (text.partition(":")[0] for text in self._names):
            library.call("saved_by", self._open(), encoded(name, "filter"), byref(bytes_))
            saved[name] = bytes_.value
        return saved

    def _pending(self, pushed: ctypes.c_uint64) -> Optional[PendingPush]:
        return PendingPush(self._table._client, pushed.value) if pushed.value else None

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the sparsifier is closed")
        return self._handle

    def _close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            library.call("close_sparsifier", handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.close_sparsifier(self._handle)
