"""What can go wrong, as exceptions. Each carries the library's status and its sentence."""

from __future__ import annotations

from typing import Sequence


class WindlassError(Exception):
    """A call failed. `status` is the windlass_status of the C header.

    `refused` has the rows or keys of a push that were not applied while all others of it were: ranges,
    ascending. It is empty where the push was refused as a whole, or failed in another way.
    """

    def __init__(self, text: str, status: int = 0, refused: Sequence[range] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.refused = list(refused)


class InvalidArgument(WindlassError, ValueError):
    """An argument, a schema or a number of values makes no sense."""


class WrongThread(WindlassError, RuntimeError):
    """The object belongs to another thread."""


class WrongProcess(WindlassError, RuntimeError):
    """The object was made before a fork, by the parent process: connect again in this one."""


class InternalError(WindlassError, RuntimeError):
    """A bug in windlass."""


class NoMemory(WindlassError, MemoryError):
    """No memory here, or none left at a server."""


class ConnectError(WindlassError, ConnectionError):
    """No server answers, or no transport works."""


class RefusedError(WindlassError, PermissionError):
    """The server refused, for example the token."""


class ServerGone(WindlassError, ConnectionError):
    """The server is gone; requests without an answer may have been applied."""


class Timeout(WindlassError, TimeoutError):
    """No answer within the client's timeout. The request goes on."""


class Interrupted(WindlassError):
    """A signal ended the wait. What was asked for goes on."""


class Unavailable(WindlassError, ConnectionError):
    """No live server has the rows, for as long as the client tried."""


class RowsLost(WindlassError):
    """A server came back without the table's rows, which nothing kept. Open the table again to go on."""


class SessionExpired(WindlassError, TimeoutError):
    """The push had no answer for so long that servers may have applied it and forgotten that. Pull the
    rows to see, and push anew what is missing."""


class UnknownTable(WindlassError, LookupError):
    """There is no such table."""


class TableExists(WindlassError):
    """A table of that name has another schema."""


class DtypeError(WindlassError, TypeError):
    """Values are of another dtype than the table's."""


class OutOfRange(WindlassError, IndexError):
    """A row is past the table's end."""


class NotFinite(WindlassError, ValueError):
    """A value is NaN or infinite, and the table refuses such. Nothing was applied."""


_BY_STATUS = {
    1: InvalidArgument,
    2: WrongThread,
    3: InternalError,
    4: NoMemory,
    5: WrongProcess,
    10: ConnectError,
    11: ConnectError,
    12: RefusedError,
    13: ServerGone,
    14: Timeout,
    15: Unavailable,
    16: RowsLost,
    17: SessionExpired,
    18: Interrupted,
    20: UnknownTable,
    21: TableExists,
    22: DtypeError,
    23: InvalidArgument,
    30: InvalidArgument,
    33: OutOfRange,
    34: InvalidArgument,
    35: NotFinite,
    36: InvalidArgument,
    37: InvalidArgument,
}


def of_status(status: int, text: str, refused: Sequence[range] = ()) -> WindlassError:
    """The exception for a status of the library."""
    return _BY_STATUS.get(status, WindlassError)(text, status, refused)
