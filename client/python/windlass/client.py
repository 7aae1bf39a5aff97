"""Connections."""

from __future__ import annotations

import threading
import weakref
from ctypes import byref, c_char_p, c_uint64
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Union

import numpy

from . import dtypes
from .buffer import Buffer
from .library import Counters as CCounters
from .library import EachTable, Options, encoded, library, sized, watch_signals
from .library import Schema as CSchema
from .table import Schema, Table, schema_of


@dataclass(frozen=True)
class Counters:
    """What a client has counted since it connected."""

    pushes: int
    pulls: int
    bytes_pushed: int
    bytes_pulled: int
    reads_retried: int
    sleeps: int
    #: Bytes that each filter kept from being sent.
    saved_by_key_cache: int
    saved_by_delta_keys: int
    saved_by_snappy: int
    saved_by_bf16: int
    saved_by_f16: int
    saved_by_fixed: int


def connect(
    address: str,
    *,
    token: Optional[str] = None,
    rank: Optional[int] = None,
    timeout: float = 30.0,
    retry_for: float = 30.0,
    providers: Union[str, Sequence[str], None] = None,
    staging_bytes: int = 0,
) -> "Client":
    """Connects to the cluster that the server at `address` belongs to.

    `address` is "windlass://HOST:PORT" or "HOST:PORT", or several, "HOST:PORT,HOST:PORT"; `timeout`
    is in seconds and holds for every request and for servers that say nothing; for `retry_for` seconds requests are tried again while
    servers fail or restart, 0 for not at all; `providers` are transports that may be used, best first, of
    "verbs", "shm" and "tcp"; one of them may be given alone.
    """
    return Client(
        address,
        token=token,
        rank=rank,
        timeout=timeout,
        retry_for=retry_for,
        providers=providers,
        staging_bytes=staging_bytes,
    )


def _consistency_of(consistency: Union[str, int]) -> tuple[int, int]:
    """A windlass_consistency, and rounds."""
    if isinstance(consistency, int):
        if not 0 <= consistency < 2**64:
            raise ValueError(f"a pull may miss from 0 to 2**64 - 1 rounds, not {consistency}")
        return 1, consistency
    kinds = {"eventual": 0, "sequential": 2}
    if consistency not in kinds:
        raise ValueError(f'consistency is "eventual", "sequential" or rounds, not {consistency!r}')
    return kinds[consistency], 0


def _parameter(key: str, value: Union[float, bool]) -> str:
    """A hyper-parameter's value as the rule's text has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, numpy.number)):
        return repr(float(value))
    raise TypeError(f"{key} is a number, or True or False, not {value!r}")


class Client:
    """A connection to a cluster. Belongs to the thread and the process that made it. A context manager.

    In a forked child, as of `multiprocessing`, its calls raise WrongProcess: connect there again. What
    `allocate` returned is memory that both processes see.
    """

    def __init__(
        self,
        address: str,
        *,
        token: Optional[str] = None,
        rank: Optional[int] = None,
        timeout: float = 30.0,
        retry_for: float = 30.0,
        providers: Union[str, Sequence[str], None] = None,
        staging_bytes: int = 0,
    ) -> None:
        self._handle = 0
        self._children: weakref.WeakSet[Any] = weakref.WeakSet()
        options = sized(Options)
        options.token = None if token is None else encoded(token, "token")
        if isinstance(providers, str):
            providers = [providers]
        options.providers = None if providers is None else encoded(",".join(providers), "providers")
        options.timeout_ms = max(1, round(timeout * 1000))
        options.retry_for_ms = max(1, round(retry_for * 1000)) if retry_for > 0 else 2**64 - 1
        options.staging_len = staging_bytes
        options.has_rank, options.rank = (0, 0) if rank is None else (1, rank)
        if threading.current_thread() is threading.main_thread():
            options.goes_on = watch_signals()
        # What the library calls lives as long as this.
        self._options = options
        self._handle = library.handle("connect", encoded(address, "address"), byref(options))

    def create_table(
        self,
        name: str,
        *,
        width: int,
        rows: Optional[int] = None,
        dtype: Any = "f32",
        rule: str = "add",
        replicas: int = 1,
        durability: Union[str, int] = "memory",
        reject_not_finite: bool = False,
        consistency: Union[str, int] = "eventual",
        aggregation: Union[str, int] = "immediate",
        fold_late: bool = False,
        initializer: str = "zero",
        expiry: str = "never",
    ) -> Table:
        """Creates a table, or opens the one of that name and schema.

        With `rows` it is dense: rows 0 to rows - 1. Without it is sparse: any 64-bit key. `rule` is
        how a push changes a row, such as "sgd:lr=0.1" or "adagrad:lr=0.1". `durability` is
        "memory", "sync", or a number of milliseconds; `consistency` is "eventual", "sequential", or
        the number of rounds that a pull may miss. `aggregation` is "immediate"; "rounds", in which
        the pushes of a worker clock are summed until all workers have finished it, and a push is
        acknowledged then; or a number of workers, from 1, that are enough for that. Pushes that come
        too late are dropped or, with `fold_late`, count in the next round. A table in rounds is of
        durability "memory", and its workers have ranks. `initializer` is what rows of a sparse table
        begin with: "zero", "constant:0.5", "uniform:-0.01,0.01", "normal:0,0.02" or
        "truncated-normal:0,0.02" (cut at two deviations), the last three also with ",seed=7". A pull of a
        key that nobody pushed to returns these values, and makes no row. `expiry` is which rows of a sparse
        table go by themselves: "never"; "age:7d", those that nothing was pushed to for that long (s, m, h or
        d of service); "rows:1000000", the oldest of more than that; or "age:7d,rows:1000000".
        """
        schema = sized(CSchema)
        schema.dtype = dtypes.number_of(dtype)
        schema.width = width
        schema.kind, schema.rows = (1, 0) if rows is None else (0, rows)
        schema.rule = encoded(rule, "rule")
        schema.initializer = encoded(initializer, "initializer")
        schema.expiry = encoded(expiry, "expiry")
        schema.replicas = replicas
        schema.not_finite = reject_not_finite
        if isinstance(durability, int):
            schema.durability, schema.durability_interval_ms = 1, durability
        else:
            schema.durability = {"memory": 0, "sync": 2}[durability]
        schema.consistency, schema.staleness = _consistency_of(consistency)
        schema.aggregation, schema.quorum = quorum_of(aggregation)
        schema.fold_late = fold_late
        if fold_late and not schema.aggregation:
            raise ValueError("fold_late is for tables in rounds: give aggregation, too")
        handle = library.handle("create_table", self._open(), encoded(name, "name"), byref(schema))
        return Table(self, name, handle)

    def open_table(self, name: str) -> Table:
        """Opens a table with the schema it has."""
        return Table(self, name, library.handle("open_table", self._open(), encoded(name, "name")))

    def set_consistency(self, name: str, consistency: Union[str, int]) -> None:
        """Changes how far a table's workers may be apart, while they use it.

        `consistency` is as `create_table` takes it. Workers that see the servers' memory go by it from
        their next pull on, others within eight rounds. A table that was created as "eventual" is refused:
        its workers keep no clocks.
        """
        kind, staleness = _consistency_of(consistency)
        library.call("set_consistency", self._open(), encoded(name, "name"), kind, staleness)

    def set_expiry(self, name: str, expiry: str) -> None:
        """Changes which rows of a sparse table go by themselves, while it is in use.

        `expiry` is as `create_table` takes it. A table that was created without is refused, and so is "never".
        """
        library.call("set_expiry", self._open(), encoded(name, "name"), encoded(expiry, "expiry"))

    def set_hyper_parameters(self, name: str, **parameters: Union[float, bool]) -> None:
        """Changes hyper-parameters of a table's update rule, while the table is in use; the others stay.

        Keys are as in the rule's text, short or in full: `set_hyper_parameters("w", learning_rate=0.01)`, `lr=0.01`,
        `momentum=0.95`, `nesterov=True`. Pushes that were acknowledged before went by the old values, pushes
        that are sent after this returns go by the new ones. An unknown key, or a value out of its range, is refused
        with the list of what there is, and changes nothing.
        """
        given = ",".join(f"{key}={_parameter(key, value)}" for key, value in parameters.items())
        library.call(
            "set_hyper_parameters", self._open(), encoded(name, "name"), encoded(given, "parameters")
        )

    def drop_table(self, name: str) -> None:
        """Drops a table and its rows on all servers."""
        library.call("drop_table", self._open(), encoded(name, "name"))

    def tables(self) -> dict[str, Schema]:
        """All tables, by name."""
        found: dict[str, Schema] = {}

        def each(_context: Any, name: bytes, schema: Any) -> None:
            found[name.decode()] = schema_of(schema.contents)

        library.call("list_tables", self._open(), EachTable(each), None)
        return found

    def allocate(self, count: int, dtype: Any = "f32") -> Buffer:
        """Allocates zeroed values in registered memory, which pushes do not copy."""
        number = dtypes.number_of(dtype)
        handle = library.handle("allocate_buffer", self._open(), number, count)
        return Buffer(self, handle, number, count)

    def register(self, array: numpy.ndarray, dtype: Any = None) -> Buffer:
        """Registers the memory of a C-contiguous array, which stays alive as long as the buffer.

        Over verbs and tcp, pushes do not copy it; over shared memory each copies it once. `dtype`
        is needed for bfloat16 values in a uint16 array only.
        """
        if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
            raise ValueError("the array has to be C-contiguous, aligned and writable")
        number = dtypes.number_of(array.dtype if dtype is None else dtype)
        if dtypes.numpy_of(number).itemsize != array.dtype.itemsize:
            raise TypeError(f"values of {array.dtype} are not {dtypes.name_of(number)}")
        handle = library.handle(
            "register_buffer", self._open(), number, array.ctypes.data, array.size
        )
        buffer = Buffer(self, handle, number, array.size)
        buffer._keep(array)
        return buffer

    def wait(self, timestamp: int) -> None:
        """Waits for the request with this timestamp."""
        library.call("wait", self._open(), timestamp)

    def wait_all(self) -> None:
        """Waits for all requests made so far; raises the first failure among the last 1,024."""
        library.call("wait_all", self._open())

    def poll(self) -> None:
        """Takes in what has arrived without waiting."""
        library.call("poll", self._open())

    def advance_clock(self) -> int:
        """Ends this worker's round, and returns the request's timestamp."""
        timestamp = c_uint64()
        library.call("advance_clock", self._open(), byref(timestamp))
        return timestamp.value

    @property
    def clock(self) -> int:
        """Rounds this worker has ended."""
        clock = c_uint64()
        library.call("clock", self._open(), byref(clock))
        return clock.value

    @property
    def counters(self) -> Counters:
        """What the client has counted."""
        fields = sized(CCounters)
        library.call("count", self._open(), byref(fields))
        names = [name for name, *_ in CCounters._fields_ if name != "size"]
        return Counters(**{name: getattr(fields, name) for name in names})

    @property
    def transports(self) -> str:
        """Which transport carries each server's data, and why better ones do not."""
        text = c_char_p()
        library.call("transports", self._open(), byref(text))
        return (text.value or b"").decode()

    def close(self) -> None:
        """Closes the client and what was made with it. Buffers with views live on until those end."""
        if not self._handle:
            return
        for child in list(self._children):
            if isinstance(child, Buffer) and child._memory() is not None:
                continue
            child._close()
        handle, self._handle = self._handle, 0
        library.call("close", handle)

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the client is closed")
        return self._handle

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.close(self._handle)


def quorum_of(aggregation: Union[str, int]) -> tuple[int, int]:
    """The mode by number, and how many workers close a round, 0 for all."""
    if aggregation == "immediate":
        return 0, 0
    if aggregation == "rounds":
        return 1, 0
    if isinstance(aggregation, int) and not isinstance(aggregation, bool) and 0 < aggregation < 2**32:
        return 1, aggregation
    raise ValueError(
        f'aggregation is "immediate", "rounds" or a number of workers from 1, not {aggregation!r}'
    )
