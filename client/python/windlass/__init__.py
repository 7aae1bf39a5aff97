"""Push gradients to and pull weights from Windlass parameter servers.

>>> import numpy, windlass
>>> with windlass.connect("127.0.0.1:7700") as client:          # doctest: +SKIP
...     table = client.create_table("weights", width=4, rows=1000, rule="sgd:lr=0.1")
...     table.push([3, 7], numpy.ones((2, 4), "float32")).wait()
...     weights = table.pull([3, 7])

A client, and everything made with it, belongs to the thread that connected: connect once per thread.
While a call waits, other Python threads run. It belongs to one process as well: in a child that
`multiprocessing` forks, its calls raise WrongProcess, and the parent goes on. Connect there again.
"""

from ._version import __version__
from .buffer import Buffer
from .client import Client, Counters, connect
from .errors import (
    ConnectError,
    DtypeError,
    InternalError,
    Interrupted,
    InvalidArgument,
    NoMemory,
    NotFinite,
    OutOfRange,
    RefusedError,
    RowsLost,
    ServerGone,
    SessionExpired,
    TableExists,
    Timeout,
    Unavailable,
    UnknownTable,
    WindlassError,
    WrongProcess,
    WrongThread,
)
from .pending import PendingPull, PendingPush
from .scan import Scan, ScanBatch
from .sparsify import Sparsifier
from .table import Prepared, Schema, Table

__all__ = [
    "Buffer",
    "Client",
    "ConnectError",
    "Counters",
    "DtypeError",
    "InternalError",
    "Interrupted",
    "InvalidArgument",
    "NoMemory",
    "NotFinite",
    "OutOfRange",
    "PendingPull",
    "PendingPush",
    "Prepared",
    "RefusedError",
    "RowsLost",
    "Scan",
    "ScanBatch",
    "Schema",
    "ServerGone",
    "SessionExpired",
    "Sparsifier",
    "Table",
    "TableExists",
    "Timeout",
    "Unavailable",
    "UnknownTable",
    "WindlassError",
    "WrongProcess",
    "WrongThread",
    "__version__",
    "connect",
]
