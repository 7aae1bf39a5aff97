"""The dtypes of tables as numpy knows them."""

from __future__ import annotations

from typing import Any

import numpy

_NAMES = {
    "f32": (0, "float32"),
    "f64": (1, "float64"),
    "f16": (2, "float16"),
    "bf16": (3, "bfloat16"),
    "i8": (4, "int8"),
    "i32": (5, "int32"),
    "i64": (6, "int64"),
    "u64": (7, "uint64"),
}

try:
    from ml_dtypes import bfloat16 as _bfloat16  # type: ignore[import-not-found, unused-ignore]

    _BFLOAT16 = numpy.dtype(_bfloat16)
except ImportError:
    # Without ml_dtypes, bfloat16 values are seen as the 16 bits they have.
    _BFLOAT16 = numpy.dtype(numpy.uint16)

_DTYPES = {
    number: _BFLOAT16 if name == "bfloat16" else numpy.dtype(name)
    for number, name in _NAMES.values()
}


def number_of(dtype: Any) -> int:
    """The library's number of a dtype: a name such as "f32", "bfloat16", or what numpy takes."""
    if isinstance(dtype, str):
        if dtype in _NAMES:
            return _NAMES[dtype][0]
        if dtype == "bfloat16":
            return _NAMES["bf16"][0]
    found = numpy.dtype(dtype)
    for number, known in _DTYPES.items():
        if known == found and not (found == numpy.uint16):
            return number
    raise TypeError(f"tables cannot hold {found}: use one of {', '.join(_NAMES)}")


def numpy_of(number: int) -> numpy.dtype:
    """The numpy dtype for a number of the library."""
    return _DTYPES[number]


def name_of(number: int) -> str:
    """The name for a number of the library."""
    return next(name for name, (known, _) in _NAMES.items() if known == number)
