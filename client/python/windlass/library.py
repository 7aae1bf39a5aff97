"""The C library: where it is, what its structs and functions look like. See windlass.h."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generator

from .errors import InvalidArgument, of_status

_ABI_VERSION = 1
_INTERRUPTED = 18
_NAME = "libwindlass.so"


#: What the library calls while it waits, to ask whether to go on.
GoesOn = ctypes.CFUNCTYPE(c_int32, c_void_p)

#: What signal handlers raised while the library waited.
_RAISED: list[BaseException] = []


def _signals() -> Generator[int, Any, None]:
    """Says at each step whether the signals that came meanwhile let the wait go on."""
    goes_on = 1
    while True:
        try:
            while True:
                # Resuming here runs the handlers of signals that have come.
                yield goes_on
                goes_on = 1
        except GeneratorExit:
            raise
        except BaseException as error:
            _RAISED.append(error)
            goes_on = 0


def watch_signals() -> Any:
    """A `goes_on` under which signal handlers run while the library waits; for the main thread, whose
    they are. It is a generator's own method: a function of Python's would run them, and raise, before its
    first line.
    """
    signals = _signals()
    next(signals)
    return GoesOn(signals.send)


class Options(ctypes.Structure):
    """windlass_options."""

    _fields_ = [
        ("size", c_size_t),
        ("token", c_char_p),
        ("providers", c_char_p),
        ("timeout_ms", c_uint64),
        ("spin_us", c_uint64),
        ("staging_len", c_uint64),
        ("has_rank", c_uint32),
        ("rank", c_uint32),
        ("retry_for_ms", c_uint64),
        ("goes_on", GoesOn),
        ("context", c_void_p),
    ]


class PushOptions(ctypes.Structure):
    """windlass_push_options."""

    _fields_ = [
        ("size", c_size_t),
        ("after", c_uint64),
        ("clock", c_uint64),
        ("has_clock", c_uint32),
        ("sync", c_uint32),
        ("filters", c_char_p),
    ]


class PullOptions(ctypes.Structure):
    """windlass_pull_options."""

    _fields_ = [
        ("size", c_size_t),
        ("after", c_uint64),
        ("relaxed", c_uint32),
        ("replica", c_uint32),
        ("filters", c_char_p),
    ]


class ScanOptions(ctypes.Structure):
    """windlass_scan_options."""

    _fields_ = [
        ("size", c_size_t),
        ("columns", c_uint32),
        ("rows_max", c_uint32),
        ("replica", c_uint32),
        ("reserved", c_uint32),
    ]


class ScanBatch(ctypes.Structure):
    """windlass_scan_batch."""

    _fields_ = [
        ("size", c_size_t),
        ("row_count", c_size_t),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("state", c_void_p),
        ("state_len", c_size_t),
        ("state_planes", c_uint32),
        ("row_word", c_uint32),
    ]


class Schema(ctypes.Structure):
    """windlass_schema."""

    _fields_ = [
        ("size", c_size_t),
        ("dtype", c_uint32),
        ("width", c_uint32),
        ("kind", c_uint32),
        ("replicas", c_uint32),
        ("rows", c_uint64),
        ("rule", c_char_p),
        ("durability", c_uint32),
        ("durability_interval_ms", c_uint32),
        ("not_finite", c_uint32),
        ("consistency", c_uint32),
        ("staleness", c_uint64),
        ("aggregation", c_uint32),
        ("quorum", c_uint32),
        ("fold_late", c_uint32),
        ("reserved", c_uint32),
        ("initializer", c_char_p),
        ("expiry", c_char_p),
    ]


class Rows(ctypes.Structure):
    """windlass_rows."""

    _fields_ = [("first", c_uint64), ("last", c_uint64)]


class Counters(ctypes.Structure):
    """windlass_counters."""

    _fields_ = [
        ("size", c_size_t),
        ("pushes", c_uint64),
        ("pulls", c_uint64),
        ("bytes_pushed", c_uint64),
        ("bytes_pulled", c_uint64),
        ("reads_retried", c_uint64),
        ("sleeps", c_uint64),
        ("saved_by_key_cache", c_uint64),
        ("saved_by_delta_keys", c_uint64),
        ("saved_by_snappy", c_uint64),
        ("saved_by_bf16", c_uint64),
        ("saved_by_f16", c_uint64),
        ("saved_by_fixed", c_uint64),
    ]


def sized(struct: Any) -> Any:
    """A struct of zeros with its size set."""
    made = struct()
    made.size = ctypes.sizeof(struct)
    return made


def encoded(text: str, name: str) -> bytes:
    """A text for C, which ends at the first NUL."""
    if "\0" in text:
        raise InvalidArgument(f"{name} has a NUL character")
    return text.encode()


EachTable = ctypes.CFUNCTYPE(None, c_void_p, c_char_p, POINTER(Schema))

_HANDLE_OUT = POINTER(c_void_p)
_U64_OUT = POINTER(c_uint64)
_KEYS = [c_void_p, c_size_t]
_RANGE = [c_uint64, c_uint64]
_PUSH = [c_void_p, c_size_t, POINTER(PushOptions), _U64_OUT]
_PUSH_PULL = [c_void_p, c_void_p, c_size_t, POINTER(PushOptions)]
_PULL = [c_void_p, c_size_t, POINTER(PullOptions)]
_START = [POINTER(PullOptions), _HANDLE_OUT]
_PUSH_BUFFER = [c_void_p, c_size_t, POINTER(PushOptions), _U64_OUT]

#: Arguments of every function that returns a status.
_FUNCTIONS = {
    "connect": [c_char_p, POINTER(Options), _HANDLE_OUT],
    "close": [c_void_p],
    "transports": [c_void_p, POINTER(c_char_p)],
    "list_tables": [c_void_p, EachTable, c_void_p],
    "drop_table": [c_void_p, c_char_p],
    "set_consistency": [c_void_p, c_char_p, c_uint32, c_uint64],
    "set_expiry": [c_void_p, c_char_p, c_char_p],
    "set_hyper_parameters": [c_void_p, c_char_p, c_char_p],
    "wait": [c_void_p, c_uint64],
    "wait_all": [c_void_p],
    "poll": [c_void_p],
    "advance_clock": [c_void_p, _U64_OUT],
    "clock": [c_void_p, _U64_OUT],
    "count": [c_void_p, POINTER(Counters)],
    "create_table": [c_void_p, c_char_p, POINTER(Schema), _HANDLE_OUT],
    "open_table": [c_void_p, c_char_p, _HANDLE_OUT],
    "close_table": [c_void_p],
    "remove_rows": [c_void_p, *_KEYS, _U64_OUT],
    "remove_rows_below": [c_void_p, c_double, _U64_OUT],
    "table_schema": [c_void_p, POINTER(Schema)],
    "wait_for_workers": [c_void_p, c_uint64],
    "push": [c_void_p, *_KEYS, *_PUSH],
    "push_range": [c_void_p, *_RANGE, *_PUSH],
    "push_pull": [c_void_p, *_KEYS, *_PUSH_PULL],
    "push_pull_range": [c_void_p, *_RANGE, *_PUSH_PULL],
    "pull": [c_void_p, *_KEYS, *_PULL],
    "pull_range": [c_void_p, *_RANGE, *_PULL],
    "pull_bags": [c_void_p, *_KEYS, c_void_p, c_size_t, c_uint32, *_PULL],
    "start_pull": [c_void_p, *_KEYS, *_START],
    "start_pull_range": [c_void_p, *_RANGE, *_START],
    "finish_pull": [c_void_p, c_void_p, c_size_t],
    "forget_pull": [c_void_p],
    "allocate_buffer": [c_void_p, c_uint32, c_size_t, _HANDLE_OUT],
    "register_buffer": [c_void_p, c_uint32, c_void_p, c_size_t, _HANDLE_OUT],
    "close_buffer": [c_void_p],
    "buffer_values": [c_void_p, _HANDLE_OUT, POINTER(c_size_t)],
    "buffer_is_shared": [c_void_p, POINTER(c_int32)],
    "settle_buffer": [c_void_p],
    "push_buffer": [c_void_p, *_KEYS, *_PUSH_BUFFER],
    "push_buffer_range": [c_void_p, *_RANGE, *_PUSH_BUFFER],
    "prepare": [c_void_p, *_KEYS, _HANDLE_OUT],
    "prepare_range": [c_void_p, *_RANGE, _HANDLE_OUT],
    "prepared_values": [c_void_p, _HANDLE_OUT, POINTER(c_size_t)],
    "push_prepared": [c_void_p, POINTER(PushOptions), _U64_OUT],
    "pull_prepared": [c_void_p, POINTER(PullOptions)],
    "close_prepared": [c_void_p],
    "make_sparsifier": [c_void_p, c_char_p, _HANDLE_OUT],
    "push_chosen": [c_void_p, *_KEYS, c_void_p, *_PUSH],
    "push_chosen_range": [c_void_p, *_RANGE, c_void_p, *_PUSH],
    "push_held": [c_void_p, POINTER(PushOptions), _U64_OUT],
    "held_rows": [c_void_p, POINTER(c_size_t)],
    "held": [c_void_p, *_KEYS, c_void_p, c_size_t],
    "hold": [c_void_p, *_KEYS, c_void_p, c_size_t],
    "saved_by": [c_void_p, c_char_p, _U64_OUT],
    "close_sparsifier": [c_void_p],
    "begin_scan": [c_void_p, c_char_p, POINTER(ScanOptions), _HANDLE_OUT],
    "next_rows": [c_void_p, POINTER(ScanBatch)],
    "scan_cursor": [c_void_p, POINTER(c_char_p)],
    "close_scan": [c_void_p],
}


class Library:
    """The loaded library. `call` raises what its functions say went wrong."""

    def __init__(self, path: str) -> None:
        self.path = path
        library = ctypes.CDLL(path)
        for name, arguments in _FUNCTIONS.items():
            try:
                function = getattr(library, f"windlass_{name}")
            except AttributeError as error:
                raise ImportError(
                    f"{path} has no windlass_{name}: it is not of this package's version"
                ) from error
            function.argtypes = arguments
            function.restype = c_int32
            setattr(self, name, function)
        self._last_error = library.windlass_last_error
        self._last_error.restype = c_char_p
        self._last_refused = library.windlass_last_refused
        self._last_refused.argtypes = [POINTER(Rows), c_size_t]
        self._last_refused.restype = c_size_t
        library.windlass_version.restype = c_char_p
        library.windlass_abi_version.restype = c_uint32
        if library.windlass_abi_version() != _ABI_VERSION:
            raise ImportError(
                f"{path} has ABI version {library.windlass_abi_version()}, "
                f"this package needs {_ABI_VERSION}: install matching versions"
            )
        self.version: str = library.windlass_version().decode()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The functions of `_FUNCTIONS`."""

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function; raises a WindlassError unless it succeeds."""
        status = getattr(self, name)(*arguments)
        if status == _INTERRUPTED and _RAISED:
            raise _RAISED.pop()
        if status != 0:
            raise of_status(status, self._last_error().decode(errors="replace"), self._refused())

    def _refused(self) -> list[range]:
        """The rows of the push that failed last which were not applied, while others were."""
        count = self._last_refused(None, 0)
        runs = (Rows * count)()
        self._last_refused(runs, count)
        return [range(run.first, run.last + 1) for run in runs]

    def handle(self, name: str, *arguments: Any) -> int:
        """Calls a function whose last argument is where a handle goes."""
        place = c_void_p()
        self.call(name, *arguments, byref(place))
        return place.value or 0


def _load() -> Library:
    named = os.environ.get("WINDLASS_LIBRARY")
    if named:
        return Library(named)
    beside = Path(__file__).with_name(_NAME)
    if beside.exists():
        return Library(str(beside))
    try:
        return Library(ctypes.util.find_library("windlass") or _NAME)
    except OSError as error:
        raise ImportError(
            f"{_NAME} is not found: build it with `cargo build --release -p windlass-c`, and set "
            f"WINDLASS_LIBRARY to its path, or put it beside {__file__} ({error})"
        ) from error


library = _load()
