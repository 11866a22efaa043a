"""Every block of every page is executed, in the order of the page, as a reader would do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks
from tests.docs.pages.conftest import Machine
from tests.docs.pages.reader import USES_DATA_FOLDER

KAFKA_PLANT = ("topics.md",)
"""Pages that need a plant on Kafka beside the shared one."""
NO_PLANT = ("CONTRIBUTING.md", "benchmarks.md", "indicators.md", "library.md", "vendors.md")
"""Pages that need no plant. Starting one takes longer than these pages."""
SERVERS = ("README.md", "kafka.md")
"""Pages that start a plant on a broker and a database server."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(machine: Machine, page: Path, request: pytest.FixtureRequest) -> None:
    found = [block for block in blocks(page) if block.is_executed]
    own = any(USES_DATA_FOLDER.search(block.text) for block in found if block.mark in ("runs until", "keeps running"))
    if own:
        machine.stop_plant()
    elif page.name not in NO_PLANT:
        machine.start_plant()
    if page.name in KAFKA_PLANT:
        machine.start_kafka_plant()
    if page.name in SERVERS:
        machine.start_kafka()
        request.getfixturevalue("database")
    reader = machine.reader(page.stem, own_home=own)
    failed = []
    try:
        for block in found:
            try:
                reader.read(block)
            except AssertionError as error:  # the later blocks are executed too, so that one run shows all failures
                failed.append(f"{block.place}: {error}")
    finally:
        reader.close()
    assert not failed, "\n\n".join(failed)
