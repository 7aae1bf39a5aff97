"""Pushes and pulls under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy

from .library import library

if TYPE_CHECKING:
    from .client import Client
    from .table import Table


class PendingPush:
    """A push under way. Forgetting it forgets its outcome, not the push."""

    def __init__(self, client: "Client", timestamp: int) -> None:
        self._client = client
        #: What later requests name, by `after`, to run after this one.
        self.timestamp = timestamp

    def wait(self) -> None:
        """Waits until the push is applied and acknowledged."""
        self._client.wait(self.timestamp)


class PendingPull:
    """A pull under way."""

    def __init__(self, table: "Table", handle: int, shape: tuple[int, int]) -> None:
        self._table = table
        self._handle = handle
        self._shape = shape
        table._client._children.add(self)

    def wait(self, out: Optional[numpy.ndarray] = None) -> numpy.ndarray:
        """Waits for the rows: an array of shape (rows, width), or `out`."""
        if not self._handle:
            raise ValueError("the pull is over")
        out = self._table._out(out, self._shape)
        # The library keeps a pull whose arguments are wrong, and these cannot be.
        handle, self._handle = self._handle, 0
        library.call("finish_pull", handle, out.ctypes.data, out.size)
        return out

    def _close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            library.call("forget_pull", handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            library.forget_pull(self._handle)
