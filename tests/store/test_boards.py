"""Every SQL query of the boards runs on each server, and two queries of the market return the stored bars."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path

from tests.store.rows import OPEN_US, bars
from tests.store.test_interval_status import write_bars
from tickerplant.core.times import datetime_of
from tickerplant.store import Store

BOARDS = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
VARIABLES = {"${symbol:sqlstring}": "'GOOG'", "${interval:sqlstring}": "'1m'"}


def statements() -> Iterator[tuple[str, str]]:
    """Yield title and SQL of each panel and variable of the boards, with Grafana's variables and macros replaced."""
    start = datetime_of(OPEN_US) - dt.timedelta(days=1)
    end = start + dt.timedelta(days=2)
    for path in sorted(BOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        found = [(panel["title"], target["rawSql"]) for panel in board["panels"]
                 for target in panel["targets"] if "rawSql" in target]  # fmt: skip
        found += [(variable["name"], variable["query"]) for variable in board["templating"]["list"]]
        for title, sql in found:
            for name, value in VARIABLES.items():
                sql = sql.replace(name, value)
            sql = re.sub(
                r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN '{start.isoformat()}' AND '{end.isoformat()}'", sql
            )
            assert "$" not in sql, f"{path.name}: {title}"
            yield f"{path.stem}: {title}", sql


async def test_every_statement_of_the_boards_runs(store: Store) -> None:
    await write_bars(store, bars(*({"minute": minute} for minute in range(30))))
    counts, columns = {}, {}
    async with store.session() as session:
        for title, sql in statements():
            found = await session.rows(sql)
            counts[title] = len(found)
            columns[title] = set(found[0].keys()) if found else set()
    assert counts["market: $symbol, $interval"] == 30
    assert {"time", "open", "high", "low", "close", "volume"} == columns["market: $symbol, $interval"]
    assert counts["market: Trades and volume per bar"] == 30
    assert len(counts) > 10
