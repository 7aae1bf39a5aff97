"""Registered memory: values that servers read from where they are."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_int32, c_void_p
from typing import TYPE_CHECKING, Any, Optional

import numpy

from . import dtypes
from .library import library

if TYPE_CHECKING:
    from .client import Client


def view(address: int, dtype: numpy.dtype, count: int, owner: Any) -> tuple[numpy.ndarray, Any]:
    """An array over foreign memory, and the object that lives as long as any view of it."""
    memory: Any = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    memory._owner = owner
    return numpy.frombuffer(memory, dtype=dtype), memory


class Buffer:
    """Values that can be pushed again and again without being copied by the client.

    `values` is a numpy array over them. Do not write it while a push of the buffer is under way:
    wait for the push, or `settle()`.

    A buffer lives as long as a view of its memory does. `close()` ends it early, and refuses to as
    long as there are views, because they would see freed memory.
    """

    def __init__(self, client: "Client", handle: int, number: int, count: int) -> None:
        self._client = client
        self._handle = handle
        self._number = number
        self._count = count
        self._array: Optional[numpy.ndarray] = None
        self._memory: Any = lambda: None
        client._children.add(self)

    @property
    def dtype(self) -> numpy.dtype:
        """The values' dtype."""
        return dtypes.numpy_of(self._number)

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> numpy.ndarray:
        """A one-dimensional view of the values; reshape() it freely."""
        memory = self._memory()
        if memory is not None:
            return numpy.frombuffer(memory, dtype=self.dtype)
        address = c_void_p()
        library.call("buffer_values", self._open(), byref(address), None)
        array, memory = view(address.value or 0, self.dtype, self._count, self)
        self._memory = weakref.ref(memory)
        return array

    @property
    def is_shared(self) -> bool:
        """Whether servers read the values from where they are, so that pushes copy nothing."""
        shared = c_int32()
        library.call("buffer_is_shared", self._open(), byref(shared))
        return bool(shared.value)

    def settle(self) -> None:
        """Waits until every push of the values is over; raises the first failure of one."""
        library.call("settle_buffer", self._open())

    def close(self) -> None:
        """Waits for the pushes that read the buffer and frees it."""
        if self._handle and self._memory() is not None:
            raise BufferError("views of this buffer's values still exist: delete them first")
        self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            try:
                library.call("close_buffer", handle)
            except BaseException:
                self._handle = handle
                raise
            self._array = None

    def _keep(self, array: numpy.ndarray) -> None:
        """Keeps memory of the caller's alive, which the buffer is registered over."""
        self._array = array

    def _open(self) -> int:
        if not self._handle:
            raise ValueError("the buffer is closed")
        return self._handle

    def __enter__(self) -> "Buffer":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            try:
                self._close()
            except BaseException as error:  # a finalizer has nobody to tell; the memory stays
                _LEAKED.append(self._array)
                if not isinstance(error, Exception):
                    raise


#: Memory of callers that servers may still read.
_LEAKED: list[Any] = []
