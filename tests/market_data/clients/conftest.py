from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.market_data.clients.sandboxed import Sandboxed, sandboxed


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandboxed]:
    with sandboxed() as found:
        yield found
