from __future__ import annotations

import threading
from pathlib import Path

from tests.market_data.support import embedded, read_all
from tickerplant.core import records
from tickerplant.market_data.feed.commands import ensure_settings


def test_processes_that_start_together_write_the_settings_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    together = threading.Barrier(4)

    with embedded(tmp_path, 1) as log:

        def start() -> None:
            together.wait()
            try:
                ensure_settings(log, {"lateness_us": 7})
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        written = [record.header for record in read_all(log)[0]]
        assert [type(header) for header in written] == [records.Settings]
