"""Tables: where pushes go and pulls come from."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

import numpy

from . import dtypes
from .arguments import keys_of, pull_options, push_options
from .buffer import Buffer, view
from .library import Schema as CSchema
from .library import library, sized
from .pending import PendingPull, PendingPush
from .scan import Scan, replica_number
from .sparsify import Sparsifier

if TYPE_CHECKING:
    from .client import Client

#: Rows of a request: keys in any order, or a range or slice of rows of a dense table. A push sums the values of a key
#: that comes several times (a rule that assigns takes the last), and a pull brings its row to each of its places.
Rows = Union[range, slice, Sequence[int], numpy.ndarray]

_POOLING = ["sum", "mean"]
_DURABILITY = ["memory", "interval", "sync"]
_CONSISTENCY = ["eventual", "bounded", "sequential"]


@dataclass(frozen=True)
class Schema:
    """What a table was when it was opened. `rows` is None for a sparse table."""

    dtype: numpy.dtype
    #: The dtype's name in the command line and in errors, such as "bf16".
    dtype_name: str
    width: int
    rows: Optional[int]
    rule: str
    replicas: int
    #: "memory", "sync", or milliseconds within which pushes are on disk.
    durability: Union[str, int]
    #: Whether pushes with NaN or infinite values are refused.
    reject_not_finite: bool
    #: "eventual", "sequential", or the number of rounds a pull may miss.
    consistency: Union[str, int]
    #: "immediate", "rounds", or the number of workers that close a round.
    aggregation: Union[str, int] = "immediate"
    #: Whether pushes that come too late for their round count in the next one.
    fold_late: bool = False
    #: What rows of a sparse table begin with, such as "zero" or "normal:0,0.02,seed=0".
    initializer: str = "zero"
    #: Which rows of a sparse table go by themselves, such as "never" or "age:7d".
    expiry: str = "never"


def schema_of(fields: CSchema) -> Schema:
    """A schema from the library."""
    return Schema(
        dtype=dtypes.numpy_of(fields.dtype),
        dtype_name=dtypes.name_of(fields.dtype),
        width=fields.width,
        rows=None if fields.kind == 1 else fields.rows,
        rule=fields.rule.decode(),
        replicas=fields.replicas,
        durability=(
            fields.durability_interval_ms
            if fields.durability == 1
            else _DURABILITY[fields.durability]
        ),
        reject_not_finite=fields.not_finite == 1,
        consistency=fields.staleness if fields.consistency == 1 else _CONSISTENCY[fields.consistency],
        aggregation=(fields.quorum or "rounds") if fields.aggregation else "immediate",
        fold_late=fields.fold_late == 1,
        initializer=fields.initializer.decode(),
        expiry=fields.expiry.decode(),
    )


class Table:
    """A table of a cluster. Values go in and come out as arrays of its dtype, width per row."""

    def __init__(self, client: "Client", name: str, handle: int) -> None:
        self._client = client
        self._handle = handle
        #: The table's name.
        self.name = name
        fields = sized(CSchema)
        library.call("table_schema", handle, byref(fields))
        #: The table's schema.
        self.schema = schema_of(fields)
        self._number: int = fields.dtype
        client._children.add(self)

    @property
    def dtype(self) -> numpy.dtype:
        """The values' dtype. bfloat16 needs ml_dtypes, and is uint16 without."""
        return self.schema.dtype

    @property
    def width(self) -> int:
        """Values per row."""
        return self.schema.width

    def set_hyper_parameters(self, **parameters: Union[float, bool]) -> None:
        """Changes hyper-parameters of the table's update rule: see `Client.set_hyper_parameters`."""
        self._client.set_hyper_parameters(self.name, **parameters)

    def remove(self, keys: Any) -> int:
        """Removes the rows of keys of a sparse table, with their optimiser state, and returns how many there were.

        Keys may come in any order and more than once; one that has no row is passed over. A pull of a removed key
        brings the table's first values, and a push makes its row anew. This returns once the removal is as safe as
        the table's durability says; a push that is under way may be applied before or after it. Should a server die
        meanwhile, rows that it had removed already may not be counted.
        """
        array = keys_of(keys)
        removed = c_uint64()
        library.call("remove_rows", self._open(), array.ctypes.data, array.size, byref(removed))
        return removed.value

    def remove_below(self, norm: float) -> int:
        """Removes the rows of a sparse table whose values have a Euclidean norm below `norm`, as `remove` does.

        Each row is compared and removed in one step, so that no push is lost.
        """
        removed = c_uint64()
        library.call("remove_rows_below", self._open(), float(norm), byref(removed))
        return removed.value

    def push(
        self,
        rows: Rows,
        values: Any,
        *,
        after: int = 0,
        clock: Optional[int] = None,
        sync: bool = False,
        filters: str = "",
    ) -> PendingPush:
        """Starts a push of `width` values for each row: an array of shape (rows, width), or a flat one.

        The values are copied before this returns.

        `after` is the timestamp of a request that has to be done first, which this waits for; `sync` acknowledges only
        what is on disk on every replica.

        `filters` make its messages smaller, where they do: `key-cache` sends a list of keys once and names it when
        it comes again, `delta-keys` writes keys as differences, `snappy`
        compresses, `bf16`, `f16` and `fixed:1` to `fixed:4` round float32 values, the last at random so that
        their mean is right; several apart by commas, such as "delta-keys,fixed:2,snappy".

        Each shard gets it in messages of at most 1 MiB of values (256 KiB where devices write values)
        and 16,384 keys (4,096 in a sparse table), and applies and keeps each whole or not at all. Of a push that is not
        acknowledged when server and client both end, some messages may be there and others not; of one
        message some partitions and not others where there are replicas, and in `interval` tables.
        """
        function, arguments, count = self._rows("push", rows)
        given = self._values(values, count)
        options = push_options(after, clock, sync, filters)
        pushed = c_uint64()
        library.call(
            function, self._open(), *arguments, given.ctypes.data, given.size, options, byref(pushed)
        )
        return PendingPush(self._client, pushed.value)

    def push_buffer(
        self,
        rows: Rows,
        buffer: Buffer,
        first_value: int = 0,
        *,
        after: int = 0,
        clock: Optional[int] = None,
        sync: bool = False,
        filters: str = "",
    ) -> PendingPush:
        """Starts a push of a buffer's values, from number `first_value` on, without a copy.

        Do not write them until the push is over. The request `after` is waited for first.
        """
        function, arguments, _ = self._rows("push_buffer", rows)
        options = push_options(after, clock, sync, filters)
        pushed = c_uint64()
        library.call(
            function,
            self._open(),
            *arguments,
            buffer._open(),
            first_value,
            options,
            byref(pushed),
        )
        return PendingPush(self._client, pushed.value)

    def pull(
        self,
        rows: Rows,
        out: Optional[numpy.ndarray] = None,
        *,
        after: int = 0,
        relaxed: bool = False,
        replica: str = "tail",
        filters: str = "",
    ) -> numpy.ndarray:
        """Pulls rows and waits for them: an array of shape (rows, width), or `out`.

        `after` is the timestamp of a request that has to be done first, which this waits for.

        `out` is filled in place, and is a C-contiguous array of the table's dtype with as many
        values. With `relaxed`, rows of a range may mix values from before and after an update.
        `replica` is "tail", where every acknowledged push is, "any", which spreads the load, or
        "strong", which sees every push acknowledged before it whatever fails. `filters` are those of
        `push`, for rows by key: `key-cache`, `delta-keys` and `snappy` for the keys, a rounding one for the values.
        Rows that are read without the server come as they are.
        """
        function, arguments, count = self._rows("pull", rows)
        out = self._out(out, (count, self.width))
        options = pull_options(after, relaxed, replica, filters)
        library.call(function, self._open(), *arguments, out.ctypes.data, out.size, options)
        return out

    def pull_bags(
        self,
        keys: Union[Sequence[int], numpy.ndarray],
        offsets: Union[Sequence[int], numpy.ndarray],
        pooling: str = "sum",
        out: Optional[numpy.ndarray] = None,
        *,
        after: int = 0,
        replica: str = "tail",
        filters: str = "",
    ) -> numpy.ndarray:
        """Pulls bags of rows and pools each of them: an array of shape (bags, width), or `out`.

        Bag `b` has the keys from `offsets[b]` up to, not including, `offsets[b + 1]`, so that there is one
        offset more than there are bags: they begin at 0, ascend and end at the number of keys. `pooling` is "sum" or
        "mean", which integers have not. A bag without keys is all zeros. Keys come in any order and several times;
        the row of each is pulled once. The other arguments are those of `pull`.
        """
        if pooling not in _POOLING:
            raise ValueError(f"pooling is one of {', '.join(_POOLING)}, not {pooling!r}")
        keys, offsets = keys_of(keys), keys_of(offsets)
        if not offsets.size:
            raise ValueError("offsets of bags begin at 0, so that there is one at least")
        out = self._out(out, (offsets.size - 1, self.width))
        library.call(
            "pull_bags",
            self._open(),
            keys.ctypes.data,
            keys.size,
            offsets.ctypes.data,
            offsets.size - 1,
            _POOLING.index(pooling),
            out.ctypes.data,
            out.size,
            pull_options(after, False, replica, filters),
        )
        return out

    def start_pull(
        self,
        rows: Rows,
        *,
        after: int = 0,
        relaxed: bool = False,
        replica: str = "tail",
        filters: str = "",
    ) -> PendingPull:
        """Starts a pull; its `wait()` has the rows. The request `after` is waited for before that."""
        function, arguments, count = self._rows("start_pull", rows)
        options = pull_options(after, relaxed, replica, filters)
        handle = library.handle(function, self._open(), *arguments, options)
        return PendingPull(self, handle, (count, self.width))

    def push_pull(
        self, rows: Rows, values: Any, out: Optional[numpy.ndarray] = None
    ) -> numpy.ndarray:
        """Pushes rows, and pulls the same rows once the push is applied. `out` may be `values`."""
        function, arguments, count = self._rows("push_pull", rows)
        given = self._values(values, count)
        out = self._out(out, (count, self.width))
        library.call(
            function, self._open(), *arguments, given.ctypes.data, out.ctypes.data, out.size, None
        )
        return out

    def prepare(self, rows: Rows) -> "Prepared":
        """Fixes rows for pushes and pulls of them again and again, in registered memory."""
        function, arguments, count = self._rows("prepare", rows)
        handle = library.handle(function, self._open(), *arguments)
        return Prepared(self, handle, (count, self.width))

    def sparsifier(self, filters: str) -> Sparsifier:
        """Filters that choose which rows of a push are sent now; what they hold back goes with later pushes.

        `filters` are asked in their order, apart by commas, and a row is sent if all choose it: "significance:T" rows
        with a value of magnitude T or more; "top-k:K" the K rows of the largest Euclidean norm; "skip:P" each
        row with probability 1 - P; "kkt" or "kkt:T", for rules with an L1 penalty, rows that are not zero at the
        servers and those with a value above T in magnitude, or above a twentieth of the penalty. "residuals:bf16" and
        "residuals:f16" hold what the filter `bf16` or `f16` of pushes cuts off.
        """
        return Sparsifier(self, filters)

    def wait_for_workers(self, count: int) -> None:
        """Waits until so many workers, this one included, have opened the table: those that come later
        start where the others are, and are not waited for before. Needs a table whose workers keep clocks.
        """
        library.call("wait_for_workers", self._open(), count)

    def scan(
        self,
        columns: str = "values",
        *,
        cursor: Optional[str] = None,
        rows_max: int = 0,
        replica: str = "tail",
    ) -> Scan:
        """Scans a sparse table: an iterator over batches of its rows, none of them empty.

        `columns` is "keys", "values" (the default) or "state", which brings the optimiser's state too.

        Every row that is there all the time comes exactly once, any other at most once, whatever is pushed
        meanwhile and whichever servers fail. A scan goes on behind the `cursor` of another, in any process.
        """
        return Scan(self, columns, cursor, rows_max, replica_number(replica))

    def _rows(self, function: str, rows: Rows) -> tuple[str, tuple[Any, int], int]:
        """The function to call, how it is told the rows, and how many they are."""
        if isinstance(rows, slice):
            if self.schema.rows is None and rows.stop is None:
                raise ValueError("a slice of a sparse table has no end")
            rows = range(*rows.indices(self.schema.rows or rows.stop))
        if isinstance(rows, range) and rows.step == 1:
            count = len(rows)
            if count and rows.start < 0:
                raise ValueError("rows are numbered from 0")
            return f"{function}_range", (rows.start if count else 0, count), count
        keys = keys_of(rows)
        pointer: Any = ctypes.cast(keys.ctypes.data, c_void_p)
        pointer._keys = keys  # alive as long as the argument
        return function, (pointer, keys.size), keys.size

    def _values(self, values: Any, count: int) -> numpy.ndarray:
        given = numpy.asarray(values)
        if given.dtype != self.dtype:
            if isinstance(values, numpy.ndarray) and given.size:
                raise TypeError(f"table {self.name!r} holds {self.dtype}, not {given.dtype}")
            given = given.astype(self.dtype)
        if given.size != count * self.width:
            raise ValueError(
                f"{count} rows of {self.width} values need {count * self.width} values, "
                f"not {given.size}"
            )
        if given.ndim > 1 and given.shape[0] != count:
            raise ValueError(
                f"{count} rows of {self.width} values have shape ({count}, {self.width}), "
                f"not {given.shape}: is the array transposed?"
            )
        return numpy.require(given, requirements=["C", "A"])

    def _out(self, out: Optional[numpy.ndarray], shape: tuple[int, int]) -> numpy.ndarray:
        if out is None:
            # Zeroed, because the library may read what it is about to write.
            return numpy.zeros(shape, dtype=self.dtype)
        has_room = out.size == shape[0] * shape[1] and (out.ndim < 2 or out.shape[0] == shape[0])
        if out.dtype != self.dtype or not has_room:
            raise ValueError(f"out has to have {shape[0]} x {shape[1]} values of {self.dtype}")
        flags = out.flags
        if not (flags.c_contiguous and flags.writeable and flags.aligned):
            raise ValueError("out has to be C-contiguous, aligned and writable")
        return out

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the table is closed")
        return self._handle

    def _close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            library.call("close_table", handle)

    def __repr__(self) -> str:
        kind = "sparse" if self.schema.rows is None else f"{self.schema.rows} rows"
        return f"<windlass.Table {self.name!r}: {kind} of {self.width} {self.schema.dtype_name}>"

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.close_table(self._handle)


class Prepared:
    """Rows of a table with registered values of their own: pushed from and pulled into `values`."""

    def __init__(self, table: Table, handle: int, shape: tuple[int, int]) -> None:
        self._table = table
        self._handle = handle
        self._shape = shape
        table._client._children.add(self)

    @property
    def values(self) -> numpy.ndarray:
        """The values, of shape (rows, width), once no push reads them any more.

        Write them after this, or after a pull, and before the next push. The view keeps the memory.
        """
        address, count = c_void_p(), c_size_t()
        library.call("prepared_values", self._open(), byref(address), byref(count))
        array, _ = view(address.value or 0, self._table.dtype, count.value, self)
        return array.reshape(self._shape)

    def push(
        self,
        *,
        after: int = 0,
        clock: Optional[int] = None,
        sync: bool = False,
        filters: str = "",
    ) -> PendingPush:
        """Starts a push of the values, once the push before and the request `after` are over."""
        pushed = c_uint64()
        options = push_options(after, clock, sync, filters)
        library.call("push_prepared", self._open(), options, byref(pushed))
        return PendingPush(self._table._client, pushed.value)

    def pull(
        self,
        *,
        after: int = 0,
        relaxed: bool = False,
        replica: str = "tail",
        filters: str = "",
    ) -> numpy.ndarray:
        """Pulls the rows over the values, waits for them, and returns `values`.

        The request `after` is waited for first.
        """
        library.call("pull_prepared", self._open(), pull_options(after, relaxed, replica, filters))
        return self.values

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the prepared operation is closed")
        return self._handle

    def _close(self) -> None:
        """Left to the finalizer: views of the values may be alive."""

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.close_prepared(self._handle)
