"""Scans: all rows of a sparse table, batch by batch, while others go on pushing."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy

from .errors import InvalidArgument
from .library import ScanBatch as CScanBatch
from .library import ScanOptions, encoded, library, sized

if TYPE_CHECKING:
    from .table import Table

# In the order of the header's WINDLASS_PULL_FROM_* and WINDLASS_SCAN_*.
_REPLICAS = ("tail", "any", "strong")
_COLUMNS = ("values", "keys", "state")


@dataclass(frozen=True)
class ScanBatch:
    """Some rows of a table."""

    #: Their keys, uint64.
    keys: numpy.ndarray
    #: Of shape (rows, width), unless keys only were asked for.
    values: Optional[numpy.ndarray]
    #: The optimiser's state, of shape (rows, planes, width), if it was asked for: float64 of float64 tables,
    #: else float32.
    state: Optional[numpy.ndarray]
    #: How often each row was updated, uint32, if state was asked for and the rule counts that.
    steps: Optional[numpy.ndarray]
    #: A number that the rule keeps of each row, float32, if state was asked for and the rule has one: the sum of
    #: mean squares of "row-adagrad".
    row_state: Optional[numpy.ndarray] = None


class Scan:
    """A scan under way: an iterator over batches."""

    def __init__(
        self, table: "Table", columns: str, cursor: Optional[str], rows_max: int, replica: int
    ) -> None:
        self._handle = 0
        if columns not in _COLUMNS:
            raise InvalidArgument(f'columns are "keys", "values" or "state", not {columns!r}')
        if not 0 <= rows_max < 2**32:
            raise InvalidArgument(f"rows_max is from 0 to 2**32 - 1, not {rows_max}")
        options = sized(ScanOptions)
        options.columns, options.rows_max = _COLUMNS.index(columns), rows_max
        options.replica = replica
        text = None if cursor is None else encoded(cursor, "cursor")
        self._table = table
        self._has_state = columns == "state"
        self._handle = library.handle("begin_scan", table._open(), text, byref(options))
        table._client._children.add(self)

    @property
    def cursor(self) -> str:
        """How far it has come: a text behind whose rows `Table.scan` goes on, in any process."""
        text = c_char_p()
        library.call("scan_cursor", self._open(), byref(text))
        return (text.value or b"").decode()

    def __iter__(self) -> "Scan":
        return self

    def __next__(self) -> ScanBatch:
        """The next rows. After an error the same rows come next."""
        batch = sized(CScanBatch)
        library.call("next_rows", self._open(), byref(batch))
        if not batch.row_count:
            raise StopIteration
        rows, dtype, width = batch.row_count, self._table.dtype, self._table.width
        keys = _copied(batch.keys, rows * 8).view(numpy.uint64)
        values = state = steps = row_state = None
        if batch.values:
            values = _copied(batch.values, rows * width * dtype.itemsize).view(dtype)
            values = values.reshape(rows, width)
        if self._has_state:
            of_row = _copied(batch.state, rows * batch.state_len).reshape(rows, batch.state_len)
            kept = numpy.dtype("f8" if dtype == numpy.dtype("f8") else "f4")
            planes_len = batch.state_planes * width * kept.itemsize
            planes = numpy.ascontiguousarray(of_row[:, :planes_len])
            state = planes.view(kept).reshape(rows, batch.state_planes, width)
            word = numpy.ascontiguousarray(of_row[:, planes_len:])
            if batch.row_word == 1:
                steps = word.view(numpy.uint32).reshape(rows)
            elif batch.row_word == 2:
                row_state = word.view(numpy.float32).reshape(rows)
        return ScanBatch(keys, values, state, steps, row_state)

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the scan is closed")
        return self._handle

    def _close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            library.call("close_scan", handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.close_scan(self._handle)


def replica_number(replica: str) -> int:
    """The header's number of a replica."""
    if replica not in _REPLICAS:
        raise InvalidArgument(f'replica is "tail", "any" or "strong", not {replica!r}')
    return _REPLICAS.index(replica)


def _copied(address: Optional[int], length: int) -> numpy.ndarray:
    """Bytes that the library keeps until its next call."""
    if not address or not length:
        return numpy.empty(0, dtype=numpy.uint8)
    return numpy.frombuffer(ctypes.string_at(address, length), dtype=numpy.uint8).copy()
