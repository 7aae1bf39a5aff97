"""The package against real servers."""

import gc
import multiprocessing
import os
import signal
import socket
import threading
import time

import numpy
import pytest

import windlass
from conftest import PROVIDERS, address


def test_keys_and_ranges(client, name):
    table = client.create_table(name, width=3, rows=1000)
    values = numpy.arange(12, dtype="float32").reshape(4, 3)
    table.push([0, 1, 500, 999], values).wait()
    table.push(range(0, 2), numpy.full((2, 3), 100, "float32")).wait()
    rows = table.pull(numpy.array([0, 1, 500, 999]))
    assert rows.shape == (4, 3)
    numpy.testing.assert_array_equal(rows[2:], values[2:])
    numpy.testing.assert_array_equal(rows[:2], values[:2] + 100)
    everything = table.pull(slice(None))
    assert everything.shape == (1000, 3) and numpy.count_nonzero(everything) == 12
    numpy.testing.assert_array_equal(table.pull(slice(500, 501)), values[2:3])
    assert table.pull([]).shape == (0, 3)
    table.push([], []).wait()


def test_replicas_of_a_pull(client, name):
    table = client.create_table(name, width=1, rows=10)
    table.push([1], [[2.0]]).wait()
    for replica in ["tail", "any", "strong"]:
        numpy.testing.assert_array_equal(table.pull([1], replica=replica), [[2.0]])
        numpy.testing.assert_array_equal(table.start_pull(range(1, 2), replica=replica).wait(), [[2.0]])
    with pytest.raises(ValueError):
        table.pull([1], replica="head")


def test_filters_make_messages_smaller(client, name):
    table = client.create_table(name, width=4)
    keys = numpy.arange(5000, dtype="uint64") * 3
    values = numpy.linspace(-2, 2, 20_000, dtype="float32").reshape(5000, 4)
    table.push(keys, values, filters="delta-keys,snappy").wait()
    numpy.testing.assert_array_equal(table.pull(keys), values)
    exact = client.counters
    assert exact.saved_by_delta_keys > 30_000 and exact.saved_by_bf16 == 0
    table.push(keys, values, filters="bf16").wait()
    prepared = table.prepare(keys)
    prepared.values[:] = values
    prepared.push(filters="fixed:2").wait()
    found = prepared.pull(filters="delta-keys,f16")
    numpy.testing.assert_allclose(found, 3 * values, atol=0.02)
    numpy.testing.assert_allclose(table.start_pull(keys, filters="fixed:3").wait(), 3 * values, atol=0.02)
    assert client.counters.saved_by_bf16 == 40_000
    with pytest.raises(ValueError, match="unknown filter"):
        table.push(keys, values, filters="gzip")
    with pytest.raises(ValueError, match="NaN or infinite"):
        table.push([1], [[numpy.inf] * 4], filters="fixed:2")


def test_rows_begin_with_what_the_table_says(client, name):
    table = client.create_table(name, width=4, initializer="uniform:1,2,seed=5")
    keys = numpy.array([3, 7, 2**64 - 1], dtype=numpy.uint64)
    first = table.pull(keys)
    assert first.min() >= 1 and first.max() <= 2 and len(numpy.unique(first)) == 12
    assert len(list(table.scan())) == 0
    table.push(keys[:1], numpy.ones((1, 4), dtype=numpy.float32))
    assert (table.pull(keys) == first + numpy.array([[1], [0], [0]], dtype=numpy.float32)).all()
    assert client.open_table(name).schema.initializer == "uniform:1,2,seed=5"
    with pytest.raises(windlass.WindlassError, match="no initializer"):
        client.create_table(name + " wrong", width=4, initializer="ones")


def test_rows_that_nothing_is_pushed_to_go_by_themselves(client, name):
    table = client.create_table(name, width=1, expiry="age:1s,rows:1000000")
    assert client.open_table(name).schema.expiry == "age:1s,rows:1000000"
    one = numpy.ones((1, 1), dtype=numpy.float32)
    table.push([7], one)
    keys = lambda: {int(key) for batch in table.scan() for key in batch.keys}
    deadline = time.monotonic() + 60
    while keys() != {5}:
        assert time.monotonic() < deadline, keys()
        table.push([5], one)
    assert table.pull([7]) == 0
    client.set_expiry(name, "age:1h")
    assert client.tables()[name].expiry == "age:1h"
    with pytest.raises(windlass.WindlassError, match="from its creation on"):
        client.set_expiry(name, "never")
    with pytest.raises(windlass.WindlassError, match="no expiry"):
        client.create_table(name + " wrong", width=4, expiry="1d")
    with pytest.raises(windlass.WindlassError, match="not valid"):
        client.create_table(name + " wrong", width=4, rows=9, expiry="age:1d")


def test_rows_that_are_held_back_arrive_with_later_pushes(client, name):
    table = client.create_table(name, width=2)
    keys, values = [9, 3, 5], numpy.array([[1, 0], [0, 4], [2, 2]], dtype="float32")
    sparsifier = table.sparsifier("significance:3")
    assert sparsifier.held_rows == 0 and sparsifier.push_held() is None
    sparsifier.push(keys, values).wait()
    numpy.testing.assert_array_equal(table.pull([3, 5, 9]), [[0, 4], [0, 0], [0, 0]])
    assert sparsifier.bytes_saved == {"significance": 2 * 16}
    # Another one goes on where this one ended, as after a restart.
    held = sparsifier.held()
    numpy.testing.assert_array_equal(held[0], numpy.array([5, 9], dtype="uint64"))
    numpy.testing.assert_array_equal(held[1], [[2, 2], [1, 0]])
    other = table.sparsifier("significance:3")
    other.hold(*held)
    assert other.push([9], [[1, 0]]) is None and other.held_rows == 2
    other.push([9, 5], [[1, 0], [0, 0]], filters="delta-keys").wait()
    numpy.testing.assert_array_equal(table.pull([3, 5, 9]), [[0, 4], [0, 0], [3, 0]])
    other.push_held().wait()
    numpy.testing.assert_array_equal(table.pull([3, 5, 9]), [[0, 4], [2, 2], [3, 0]])
    assert other.held_rows == 0 and other.held()[1].shape == (0, 2)
    # What rounding cuts off goes with later pushes: 1 + 1/1024 lies an eighth of a step of bf16 above 1.
    rounding = table.sparsifier("residuals:bf16")
    for _ in range(8):
        rounding.push([40], [[1 + 1 / 1024, 0]], filters="bf16").wait()
    numpy.testing.assert_array_equal(table.pull([40]), [[8 + 8 / 1024, 0]])
    assert rounding.held_rows == 0 and rounding.bytes_saved == {"residuals": 0}
    with pytest.raises(ValueError, match="residuals:bf16 or residuals:f16"):
        table.sparsifier("residuals:fixed:2")
    dense = client.create_table(name + " dense", width=1, rows=10, rule="ftrl:alpha=1,beta=1,l1=10,l2=0")
    kkt = dense.sparsifier("kkt,top-k:1")
    kkt.push(range(2, 5), [[0.25], [8], [20]], dense.pull(range(2, 5))).wait()
    assert kkt.held()[0].tolist() == [2, 3]
    assert kkt.bytes_saved == {"kkt": 12, "top-k": 12}
    # A push that is refused leaves what is held.
    with pytest.raises(IndexError):
        kkt.push([3, 10], [[8], [90]])
    assert kkt.held()[0].tolist() == [2, 3]
    with pytest.raises(ValueError, match="unknown filter"):
        table.sparsifier("bf16")
    with pytest.raises(ValueError, match="a number of rows above 0"):
        table.sparsifier("top-k:0")
    with pytest.raises(ValueError, match="L1 penalty"):
        table.sparsifier("kkt")
    with pytest.raises(ValueError):
        sparsifier.hold([1, 2], [[1, 1]])
    with pytest.raises(ValueError):
        sparsifier.push([1], [[1, 1]], [[1, 1], [2, 2]])


def test_results_go_where_they_are_wanted(client, name):
    table = client.create_table(name, width=2, rows=10, dtype="f64")
    out = numpy.ones((3, 2))
    assert table.push_pull([1, 2, 3], out, out=out) is out
    assert table.push_pull([1, 2, 3], out, out=out) is out and (out == 2).all()
    assert table.pull(range(1, 4), out=out.reshape(6)).base is out
    pending = table.start_pull([2], after=table.push([2], [[1, 1]]).timestamp)
    numpy.testing.assert_array_equal(pending.wait(), [[3, 3]])
    with pytest.raises(ValueError):
        pending.wait()
    table.start_pull([2])
    for wrong in [numpy.ones((2, 2)), numpy.ones((3, 2), "f4"), numpy.ones((2, 3)).T]:
        with pytest.raises(ValueError):
            table.pull([1, 2, 3], out=wrong)
    frozen = numpy.ones((3, 2))
    frozen.flags.writeable = False
    with pytest.raises(ValueError):
        table.pull([1, 2, 3], out=frozen)


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "i8", "i32", "i64", "u64", numpy.float16])
def test_dtypes(client, name, dtype):
    table = client.create_table(name, width=5, dtype=dtype)
    values = numpy.array([[1, 2, 3, 4, 100]], dtype=table.dtype)
    table.push([2**64 - 1], values).wait()
    numpy.testing.assert_array_equal(table.push_pull([2**64 - 1], values), values + values)
    with pytest.raises(TypeError):
        table.push([1], numpy.zeros(5, "complex64"))


def test_bfloat16(client, name):
    table = client.create_table(name, width=2, rows=4, dtype="bf16")
    assert table.schema.dtype_name == "bf16"
    try:
        import ml_dtypes
    except ImportError:
        assert table.dtype == numpy.uint16
        table.push([1], numpy.array([0x3F80, 0x4000], "uint16")).wait()
        numpy.testing.assert_array_equal(table.pull([1]), [[0x3F80, 0x4000]])
        buffer = client.register(numpy.array([0x3F80, 0x4000], "uint16"), dtype="bf16")
        table.push_buffer([2], buffer).wait()
        with pytest.raises(TypeError):
            client.register(numpy.zeros(2, "uint16"))
        return
    assert table.dtype == ml_dtypes.bfloat16
    table.push([1], numpy.array([1, 2], ml_dtypes.bfloat16)).wait()
    numpy.testing.assert_array_equal(table.pull([1]).astype("f4"), [[1, 2]])
    assert client.create_table(name, width=2, rows=4, dtype=ml_dtypes.bfloat16).width == 2


def test_buffers_are_pushed_from_where_they_are(client, name):
    table = client.create_table(name, width=8, rows=50_000)
    buffer = client.allocate(50_000 * 8)
    assert len(buffer) == 400_000 and buffer.is_shared and buffer.dtype == numpy.float32
    values = buffer.values.reshape(-1, 8)
    values[:] = numpy.arange(50_000)[:, None]
    table.push_buffer(range(50_000), buffer).wait()
    table.push_buffer([3, 5], buffer, first_value=8).wait()
    rows = table.pull(range(50_000))
    assert rows[49_999, 7] == 49_999 and rows[3, 0] == 4 and rows[5, 0] == 7
    with pytest.raises(BufferError):
        buffer.close()
    with pytest.raises(windlass.InvalidArgument):
        table.push_buffer([3, 5], buffer, first_value=400_000 - 15)
    with pytest.raises(windlass.DtypeError):
        table.push_buffer([3], client.allocate(8, "f64"))
    del values
    buffer.close()
    buffer.close()
    with pytest.raises(ValueError):
        buffer.settle()


def test_views_keep_a_buffer(client, name):
    values = client.allocate(1000).values
    values[:] = 1
    gc.collect()
    assert values.sum() == 1000


def test_arrays_of_ones_own_are_registered(client, name):
    table = client.create_table(name, width=16, rows=10_000)
    gradients = numpy.ones((10_000, 16), "float32")
    with client.register(gradients) as buffer:
        assert buffer.is_shared == ("tcp" in client.transports.split("(")[0])
        for _ in range(3):
            table.push_buffer(slice(None), buffer)
            buffer.settle()
            gradients += 1
    numpy.testing.assert_array_equal(table.pull(slice(None)), numpy.full((10_000, 16), 6, "f4"))
    with pytest.raises(ValueError):
        client.register(gradients.T)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_settling_tells_of_failures_though_values_were_copied(provider, name):
    client = windlass.connect(address(provider), providers=[provider])
    table = client.create_table(name, width=16, rows=10_000)
    with client.register(numpy.ones((10_000, 16), "float32")) as buffer:
        with windlass.connect(address(provider)) as other:
            other.drop_table(name)
        table.push_buffer(slice(None), buffer)
        with pytest.raises(windlass.WindlassError):
            buffer.settle()
        buffer.settle()
    client.close()


def test_prepared(client, name):
    table = client.create_table(name, width=4)
    prepared = table.prepare([1, 1000, 2**40])
    prepared.values[:] = 0.5
    for _ in range(4):
        last = prepared.push()
    last.wait()
    rows = prepared.pull()
    assert rows.shape == (3, 4) and (rows == 2).all()
    del prepared
    gc.collect()
    assert (rows == 2).all()


def test_scans(client, name):
    table = client.create_table(name, width=2, rule="adam:lr=0.1")
    assert list(table.scan()) == []
    keys = numpy.array([0, 7, 99, 2**64 - 1], dtype="uint64")
    values = numpy.arange(1, 9, dtype="float32").reshape(4, 2)
    table.push(keys, values).wait()
    table.push(keys[1:2], values[1:2] * 0).wait()
    seen, cursor = {}, None
    while True:
        scan = table.scan("state", cursor=cursor, rows_max=1)
        batch = next(scan, None)
        if batch is None:
            break
        assert batch.state.shape == (1, 2, 2) and batch.state.dtype == numpy.float32
        seen[int(batch.keys[0])] = (batch.values[0], batch.state[0], int(batch.steps[0]))
        cursor = scan.cursor
    assert sorted(seen) == keys.tolist()
    for at, key in enumerate(keys.tolist()):
        numpy.testing.assert_array_equal(seen[key][0], table.pull(keys)[at])
        assert seen[key][2] == (2 if key == 7 else 1)
    numpy.testing.assert_allclose(seen[0][1], [0.1 * values[0], 0.001 * values[0] ** 2], rtol=1e-4)
    batches = list(table.scan())
    assert sum(len(batch.keys) for batch in batches) == 4
    assert all(batch.state is None and batch.steps is None for batch in batches)
    only = list(table.scan("keys"))
    assert sorted(numpy.concatenate([batch.keys for batch in only]).tolist()) == keys.tolist()
    assert all(batch.values is None for batch in only)
    plain = client.create_table(name + " plain", width=1)
    plain.push([3], [[1.0]]).wait()
    (batch,) = plain.scan("state")
    assert batch.state.shape == (1, 0, 1) and batch.steps is None
    rowwise = client.create_table(name + " rowwise", width=2, rule="row-adagrad:lr=0.1")
    rowwise.push([3, 4], [[1.0, 3.0], [0.5, 0.5]]).wait()
    (batch,) = [batch for batch in rowwise.scan("state") if 3 in batch.keys]
    assert batch.row_state.dtype == numpy.float32 and batch.row_state[list(batch.keys).index(3)] == 5
    assert batch.steps is None and batch.state.shape[1:] == (0, 2)
    with pytest.raises(windlass.InvalidArgument):
        plain.scan(cursor=cursor)
    with pytest.raises(windlass.InvalidArgument):
        table.scan("rows")
    with pytest.raises(ValueError):
        table.scan(replica="head")
    with pytest.raises(windlass.InvalidArgument):
        client.create_table(name + " dense", width=1, rows=3).scan()


def test_rules_and_schemas(client, name):
    made = client.create_table(
        name, width=1, rows=10, rule="adagrad:lr=0.1,eps=1e-10", reject_not_finite=True
    )
    made.push([3], [2.0]).wait()
    made.push([3], [2.0]).wait()
    numpy.testing.assert_allclose(made.pull([3]), [[-0.1 * (1 + 2 / 8**0.5)]], rtol=1e-5)
    opened = client.open_table(name)
    assert opened.schema == made.schema and opened.schema.rows == 10
    assert opened.schema.rule.startswith("adagrad:") and opened.schema.reject_not_finite
    assert client.tables()[name] == made.schema
    assert "10 rows of 1 f32" in repr(opened)
    with pytest.raises(windlass.TableExists):
        client.create_table(name, width=2, rows=10)
    client.drop_table(name)
    with pytest.raises(windlass.UnknownTable) as told:
        client.open_table(name)
    assert name in str(told.value) and told.value.status == 20


def test_consistency_changes_while_workers_use_a_table(client, name, request):
    provider = request.node.callspec.params["client"]
    one, two = (
        windlass.connect(address(provider), providers=[provider], rank=rank, timeout=1.0)
        for rank in range(2)
    )
    tables = [worker.create_table(name, width=1, rows=4, consistency="sequential") for worker in (one, two)]
    for table in tables:
        table.wait_for_workers(2)
    with pytest.raises(windlass.WindlassError):
        tables[0].wait_for_workers(3)
    one.advance_clock()
    with pytest.raises(windlass.WindlassError):
        tables[0].pull([1])
    for consistency in (1, "eventual", 2**64 - 1):
        client.set_consistency(name, consistency)
        tables[0].pull([1])
    client.set_consistency(name, "sequential")
    with pytest.raises(windlass.WindlassError):
        for _ in range(9):
            one.advance_clock()
            tables[0].pull([1])
    for wrong in ("bounded", -1, None):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            client.set_consistency(name, wrong)
    client.create_table(name + "free", width=1, rows=4)
    with pytest.raises(windlass.WindlassError, match="from its creation on"):
        client.set_consistency(name + "free", "sequential")
    for worker in (one, two):
        worker.close()
    for each in (name, name + "free"):
        client.drop_table(each)


def test_rows_are_removed_by_key_and_by_norm(client, name):
    table = client.create_table(name, width=2)
    keys = [2**64 - 1, 5, 70, 8]
    table.push(keys, [[3, 4], [0.3, 0.4], [0, 1], [2, 2]]).wait()
    assert table.remove([5, 6, 5]) == 1
    assert table.remove(numpy.array([8], dtype=numpy.int32)) == 1
    assert table.remove([]) == 0
    assert table.remove_below(4.9) == 1
    assert table.remove_below(4.9) == 0
    numpy.testing.assert_array_equal(table.pull(keys), [[3, 4], [0, 0], [0, 0], [0, 0]])
    table.push([5], [[1, 1]]).wait()
    numpy.testing.assert_array_equal(table.pull([5]), [[1, 1]])
    with pytest.raises(TypeError):
        table.remove([0.5])
    with pytest.raises(windlass.WindlassError, match="with a number"):
        table.remove_below(float("nan"))
    dense = client.create_table(name + "dense", width=1, rows=4)
    with pytest.raises(windlass.WindlassError, match="are not removed: set them to zeros"):
        dense.remove([1])
    for each in (name, name + "dense"):
        client.drop_table(each)


def test_hyper_parameters_change_while_a_table_is_in_use(client, name):
    table = client.create_table(name, width=1, rows=4, rule="sgd:lr=0.5,momentum=0.5")
    client.set_hyper_parameters(name, learning_rate=0.25, nesterov=True)
    assert "lr=0.25,momentum=0.5,wd=0,nesterov=true" in client.tables()[name].rule
    table.set_hyper_parameters(lr=numpy.float32(2), nesterov=False, momentum=1e-30)
    table.push([1], [1.0]).wait()
    assert table.pull([1])[0] == -2
    with pytest.raises(windlass.WindlassError, match="lr, momentum, wd, nesterov"):
        client.set_hyper_parameters(name, speed=1)
    with pytest.raises(windlass.WindlassError, match="1e-30 to 1e30"):
        table.set_hyper_parameters(lr=0)
    with pytest.raises(TypeError):
        table.set_hyper_parameters(lr="fast")
    client.drop_table(name)


def test_rounds(client, name, request):
    provider = request.node.callspec.params["client"]
    connected = [
        windlass.connect(address(provider), providers=[provider], rank=rank) for rank in range(2)
    ]
    schema = dict(width=2, rows=10, consistency="sequential", aggregation="rounds")
    tables = [one.create_table(name, **schema) for one in connected]
    assert (tables[0].schema.aggregation, tables[0].schema.fold_late) == ("rounds", False)
    ones = numpy.ones((10, 2), "float32")
    pushed = [table.push(slice(None), ones) for table in tables]
    connected[0].advance_clock()
    assert (client.open_table(name).pull(slice(None)) == 0).all()
    connected[1].advance_clock()
    for push in pushed:
        push.wait()
    assert (tables[0].pull(slice(None)) == 2).all()
    for one in connected:
        one.close()
    client.drop_table(name)


def test_rounds_of_some(client, name):
    table = client.create_table(name, width=1, rows=2, aggregation=2, fold_late=True)
    assert (table.schema.aggregation, table.schema.fold_late) == (2, True)
    for wrong in ["round", 0, -1, True, 1.5]:
        with pytest.raises(ValueError) as told:
            client.create_table(name + "!", width=1, rows=2, aggregation=wrong)
        assert "from 1" in str(told.value)
    with pytest.raises(ValueError):
        client.create_table(name + "!", width=1, rows=2, fold_late=True)
    with pytest.raises(windlass.WindlassError) as told:
        client.create_table(name + "!", width=1, rows=2, aggregation=2, durability="sync")
    assert "durability memory" in str(told.value)


def test_mistakes(client, name):
    table = client.create_table(name, width=2, rows=100, reject_not_finite=True)
    for keys, error in [
        ([1, 100], windlass.OutOfRange),
        ([-1, 1], ValueError),
        ([0.5, 1], TypeError),
        ([[1, 2]], ValueError),
        ([-1, 2**63], ValueError),
        ([1, "2"], TypeError),
    ]:
        with pytest.raises(error):
            table.push(keys, numpy.zeros((2, 2), "float32"))
    for key in [2**64, 2**70]:
        with pytest.raises(ValueError, match=f"not {key}$"):
            table.push([1, key], numpy.zeros((2, 2), "float32"))
    with pytest.raises(ValueError):
        table.push([1], numpy.zeros(3, "float32"))
    with pytest.raises(TypeError):
        table.push([1], numpy.zeros(2, "float64"))
    with pytest.raises(windlass.NotFinite):
        table.push([1], [numpy.nan, 1])
    for name_or_token in [lambda text: client.open_table(text), lambda text: windlass.connect("127.0.0.1:1", token=text)]:
        with pytest.raises(ValueError, match="NUL"):
            name_or_token("cut\0here")
    with pytest.raises(windlass.InvalidArgument):
        client.create_table(name + "!", width=2, rows=1, rule="sgd:speed=1")
    with pytest.raises(TypeError):
        client.create_table(name + "!", width=2, rows=1, dtype="complex64")
    with pytest.raises(windlass.InvalidArgument):
        client.wait(2**40)
    assert (table.pull(slice(None)) == 0).all()


def test_rows_that_were_not_applied_are_named(name):
    if "WINDLASS_TEST_SMALL" not in os.environ:
        pytest.skip("WINDLASS_TEST_SMALL does not give the address of a server with little memory")
    with windlass.connect(os.environ["WINDLASS_TEST_SMALL"]) as client:
        table = client.create_table(name, width=16)
        keys = 3 * numpy.arange(200_000)
        with pytest.raises(windlass.NoMemory) as told:
            table.push(keys, numpy.ones((keys.size, 16), "float32")).wait()
        refused = told.value.refused
        assert refused == sorted(refused, key=lambda rows: rows.start)
        missing = numpy.isin(keys, [key for rows in refused for key in rows])
        assert 0 < missing.sum() < keys.size
        for part in range(0, keys.size, 10_000):
            held = table.pull(keys[part : part + 10_000])[:, 0]
            assert (held == numpy.where(missing[part : part + 10_000], 0, 1)).all()
        with pytest.raises(windlass.InvalidArgument) as told:
            client.wait(2**40)
        assert told.value.refused == []


def test_a_transposed_array_is_refused(client, name):
    table = client.create_table(name, width=4, rows=10)
    for push in [table.push, table.push_pull]:
        with pytest.raises(ValueError, match="transposed"):
            push([3, 7], numpy.ones((4, 2), "float32"))
    with pytest.raises(ValueError):
        table.pull([3, 7], out=numpy.ones((4, 2), "float32"))
    assert (table.pull(slice(None)) == 0).all()
    table.push([3, 7], numpy.ones((2, 4), "float32"))
    table.push([3, 7], numpy.ones(8, "float32"))
    table.push([3, 7], numpy.ones((2, 2, 2), "float32"))
    client.wait_all()
    assert (table.pull([3, 7]) == 3).all()


def _in_child(at, name, client, table, buffer, outcomes):
    """Uses a client that was connected before the fork, drops it, and connects again."""
    told = []
    uses = [
        lambda: table.push([7], [1.0]),
        lambda: table.pull([7]),
        lambda: client.open_table(name),
        lambda: client.wait_all(),
        lambda: client.tables(),
        lambda: client.allocate(1),
        lambda: buffer.settle(),
        lambda: client.clock,
    ]
    for use in uses:
        try:
            use()
        except windlass.WrongProcess as error:
            told.append("connect again" in str(error))
    client.close()
    with windlass.connect(*at[:1], providers=at[1:]) as own:
        mine = own.open_table(name)
        for _ in range(100):
            mine.push([7], [1.0]).wait()
    outcomes.put(told == [True] * len(uses))


def test_a_forked_child_is_told_and_the_parent_goes_on(client, name, request):
    context = multiprocessing.get_context("fork")
    provider = request.node.callspec.params["client"]
    table = client.create_table(name, width=1)
    buffer = client.allocate(4)
    table.push([7], [1.0]).wait()
    outcomes = context.Queue()
    at = (address(provider), provider)
    child = context.Process(target=_in_child, args=(at, name, client, table, buffer, outcomes))
    child.start()
    for _ in range(100):
        table.push([7], [1.0]).wait()
    assert outcomes.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    for _ in range(100):
        table.push([7], [1.0]).wait()
    assert table.pull([7])[0, 0] == 301


def _interrupted_after(seconds, wait):
    """How long a wait that a signal ends takes from the signal on."""
    timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        wait()
    return time.monotonic() - began - seconds


def test_ctrl_c_ends_a_wait_and_not_the_request(client, name, request):
    provider = request.node.callspec.params["client"]
    first, second = (
        windlass.connect(address(provider), providers=[provider], rank=rank, timeout=60)
        for rank in range(2)
    )
    schema = dict(width=1, rows=10, aggregation="rounds")
    table, other = (one.create_table(name, **schema) for one in (first, second))
    pushed = table.push([3], [1.0])
    first.advance_clock()
    for wait in [pushed.wait, first.wait_all]:
        assert _interrupted_after(0.3, wait) < 20
    # A handler that raises nothing ends nothing.
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: (seen.append(1), second.advance_clock()))
    try:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        pushed.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [1] and (other.pull([3]) == 1).all()
    for one in (first, second):
        one.close()


def test_ctrl_c_ends_connecting_to_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        at = f"127.0.0.1:{mute.getsockname()[1]}"
        assert _interrupted_after(0.3, lambda: windlass.connect(at, timeout=60)) < 20
        with pytest.raises(windlass.Timeout, match="did not answer within"):
            windlass.connect(at, timeout=0.2)


def test_threads_and_clocks(client, name):
    table = client.create_table(name, width=1, rows=2)
    caught = []

    def use():
        try:
            table.pull([1])
        except windlass.WrongThread as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(caught) == 1 and "thread" in str(caught[0])
    assert client.clock == 0
    client.wait(client.advance_clock())
    assert client.clock == 1
    table.push([1], [1.0])
    client.poll()
    client.wait_all()
    assert client.counters.pushes >= 1 and client.counters.bytes_pulled == 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_closing(provider, name):
    client = windlass.connect(address(provider), providers=[provider])
    table = client.create_table(name, width=1, rows=2)
    view = client.allocate(4).values
    client.close()
    client.close()
    for use in [lambda: table.pull([1]), lambda: client.tables(), lambda: client.allocate(1)]:
        with pytest.raises(ValueError):
            use()
    view[:] = 1


def test_no_server():
    with pytest.raises(ConnectionError):
        windlass.connect("127.0.0.1:1")
    with pytest.raises(ValueError):
        windlass.connect("nowhere")
    with pytest.raises(ValueError):
        windlass.connect("127.0.0.1:1", providers=["pigeon"])


def test_keys_in_any_order_and_again(client, name):
    table = client.create_table(name, width=2)
    keys = numpy.array([9, 2**64 - 1, 9, 0, 9], dtype="uint64")
    values = numpy.arange(10, dtype="float32").reshape(5, 2)
    table.push(keys, values).wait()
    expected = {9: values[0] + values[2] + values[4], 2**64 - 1: values[1], 0: values[3]}
    for found in (table.pull(keys), table.start_pull(keys).wait()):
        numpy.testing.assert_array_equal(found, [expected[int(key)] for key in keys])
    prepared = table.prepare([5, 3, 5])
    prepared.values[:] = 1
    prepared.push().wait()
    numpy.testing.assert_array_equal(prepared.pull(), [[2, 2], [1, 1], [2, 2]])


def test_bags_are_pooled(client, name):
    table = client.create_table(name, width=2)
    table.push([3, 9], numpy.array([[1, 2], [3, 5]], "float32")).wait()
    keys, offsets = [9, 3, 9, 4], numpy.array([0, 2, 2, 4])
    total = [[4, 7], [0, 0], [3, 5]]
    numpy.testing.assert_array_equal(table.pull_bags(keys, offsets), total)
    mean = table.pull_bags(keys, offsets, "mean")
    numpy.testing.assert_array_equal(mean, [[2, 3.5], [0, 0], [1.5, 2.5]])
    out = numpy.ones((3, 2), "float32")
    assert table.pull_bags(numpy.array(keys), [0, 2, 2, 4], out=out) is out and (out == total).all()
    assert table.pull_bags([], [0]).shape == (0, 2)
    for wrong in ([0, 2, 1, 4], [0, 3], [1, 4], []):
        with pytest.raises(ValueError):
            table.pull_bags(keys, wrong)
    with pytest.raises(ValueError):
        table.pull_bags(keys, offsets, "max")
