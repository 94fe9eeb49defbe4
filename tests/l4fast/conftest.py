"""The loaded program that most packet tables share: loading takes seconds, for each IP version."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packets import Harness


@pytest.fixture(scope="session")
def roomy() -> Iterator[Harness]:
    """Tables that no test fills by accident. A file's own fixture resets it before each test, with its listeners; tests
    of full tables, and those that must not find another's sync ring open, load their own."""
    harness = Harness(sessions=1 << 17, half_open=4096, fragments=1024, access_lists=2)
    yield harness
    harness.close()
