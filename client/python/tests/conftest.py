"""Where the servers are: tests/tests/python_client.rs starts them and says so."""

import os
import uuid

import pytest

import windlass

PROVIDERS = ["shm", "tcp"]


def address(provider: str) -> str:
    name = f"WINDLASS_TEST_{provider.upper()}"
    if name not in os.environ:
        pytest.skip(f"{name} does not give the address of a server")
    return os.environ[name]


@pytest.fixture(params=PROVIDERS)
def client(request):
    """A client over each transport."""
    with windlass.connect(address(request.param), providers=[request.param]) as connected:
        yield connected


@pytest.fixture
def name():
    """A name no other test has for its table."""
    return f"table {uuid.uuid4()}"
