"""Pairs of currencies without a slash: a note in the summary of a replay, if they have an exchange's sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.market_data.support import embedded
from tickerplant.core.rules import FX_CALENDARS, Rules, values_of
from tickerplant.market_data.feed.commands import ensure_settings
from tickerplant.market_data.files.replay import ReplayOptions, replay

NEW_LOG = Rules(calendars=FX_CALENDARS)


def notes(folder: Path, symbols: list[str], rules: Rules) -> list[str]:
    path = folder / "ticks.csv"
    path.write_text("time,symbol,price,size\n" + "".join(f"2025-03-28T02:00:00Z,{each},1,1\n" for each in symbols))
    with embedded(folder) as log:
        ensure_settings(log, values_of(rules))
        return [note for note in replay(log, path, ReplayOptions()).notes if "currencies" in note]


@pytest.mark.parametrize(
    ("symbols", "start"),
    [
        (["AAPL", "EURUSD"], "pairs of currencies have the sessions of XNYS: EURUSD."),
        (["EURUSD=X", "USD-JPY"], "pairs of currencies have the sessions of XNYS: EURUSD=X and 1 more symbols."),
    ],
)
def test_currencies_with_the_sessions_of_an_exchange_are_remarked(
    tmp_path: Path, symbols: list[str], start: str
) -> None:
    (note,) = notes(tmp_path, symbols, NEW_LOG)
    assert note.startswith(start)
    assert note.endswith("Write EUR/USD, or set rules.calendars to FX for them")


@pytest.mark.parametrize(
    ("symbol", "rules"),
    [
        ("EUR/USD", NEW_LOG),
        ("EURUSD", Rules(calendars={"EUR*": "FX", **FX_CALENDARS})),
        ("BTCUSD", NEW_LOG),
        ("AAPL", NEW_LOG),
    ],
)
def test_other_symbols_are_not_remarked(tmp_path: Path, symbol: str, rules: Rules) -> None:
    assert notes(tmp_path, [symbol], rules) == []
