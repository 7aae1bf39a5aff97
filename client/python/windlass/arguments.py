"""From what Python passes to what the library takes."""

from __future__ import annotations

from ctypes import byref
from typing import Any, Optional

import numpy

from .library import PullOptions, PushOptions, encoded, sized
from .scan import replica_number


def keys_of(rows: Any) -> numpy.ndarray:
    """Keys as the library takes them."""
    keys = numpy.asarray(rows)
    if keys.ndim != 1:
        raise ValueError(f"keys have one dimension, not {keys.ndim}")
    if not keys.size:
        return numpy.empty(0, dtype=numpy.uint64)
    if keys.dtype.kind in "Of":
        # What no integer dtype holds together, such as -1 and 2**63, became objects or floats.
        for key in rows:
            if not isinstance(key, (int, numpy.integer)):
                raise TypeError(f"keys are integers, not {type(key).__name__}")
            if not 0 <= key < 2**64:
                raise ValueError(f"keys are from 0 to 2**64 - 1, not {key}")
        keys = numpy.array([int(key) for key in rows], dtype=numpy.uint64)
    if not numpy.issubdtype(keys.dtype, numpy.integer):
        raise TypeError(f"keys are integers, not {keys.dtype}")
    if numpy.issubdtype(keys.dtype, numpy.signedinteger) and keys.min() < 0:
        raise ValueError(f"keys are from 0 to 2**64 - 1, not {keys.min()}")
    return numpy.ascontiguousarray(keys, dtype=numpy.uint64)


def push_options(after: int, clock: Optional[int], sync: bool, filters: str) -> Any:
    """A pointer to options, or None for the defaults."""
    if not after and clock is None and not sync and not filters:
        return None
    options = sized(PushOptions)
    options.after = after
    options.has_clock, options.clock = (0, 0) if clock is None else (1, clock)
    options.sync = sync
    options.filters = encoded(filters, "filters")
    return byref(options)


def pull_options(after: int, relaxed: bool, replica: str, filters: str) -> Any:
    """A pointer to options, or None for the defaults."""
    if not after and not relaxed and replica == "tail" and not filters:
        return None
    options = sized(PullOptions)
    options.after, options.relaxed, options.replica = after, relaxed, replica_number(replica)
    options.filters = encoded(filters, "filters")
    return byref(options)
