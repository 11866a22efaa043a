"""Prints at the exact end of a session: a note in the summary of a replay, if nothing assigns them to the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.market_data.support import embedded
from tickerplant.core.rules import Rules, values_of
from tickerplant.market_data.feed.commands import ensure_settings
from tickerplant.market_data.files.replay import ReplayOptions, replay

TOKYO, NEW_YORK = Rules(calendars={"*.T": "XTKS", "*": "XNYS"}), Rules()
# 2025-03-28: Tokyo trades 09:00 to 15:30 (00:00 to 06:30 UTC), with a break from 11:30 (02:30 UTC); New York 09:30 to
# 16:00 (13:30 to 20:00 UTC). 2025-11-28 is a half day: New York ends at 13:00 (18:00 UTC).


def notes(folder: Path, lines: list[str], rules: Rules, header: str = "time,symbol,price,size") -> list[str]:
    path = folder / "ticks.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    with embedded(folder) as log:
        ensure_settings(log, values_of(rules))
        summary = replay(log, path, ReplayOptions())
    return [note for note in summary.notes if "exact end" in note]


@pytest.mark.parametrize(
    ("time", "symbol", "rules"),
    [
        ("2025-03-28T15:30:00.000+09:00", "7203.T", TOKYO),
        ("2025-03-28T02:30:00Z", "7203.T", TOKYO),
        ("2025-03-28T16:00:00-04:00", "IBM", NEW_YORK),
        ("2025-11-28T18:00:00Z", "IBM", NEW_YORK),
    ],
)
def test_a_print_at_the_exact_end_of_a_session_is_noted(tmp_path: Path, time: str, symbol: str, rules: Rules) -> None:
    (note,) = notes(tmp_path, [f"2025-03-28T00:30:00Z,{symbol},1,1", f"{time},{symbol},2,3"], rules)
    assert note.startswith("1 prints at the exact end of a session are not in its daily bar")
    assert f"first: {symbol} at 2025-" in note


@pytest.mark.parametrize(
    ("time", "symbol", "rules"),
    [
        ("2025-03-28T19:59:59.999Z", "IBM", NEW_YORK),
        ("2025-03-28T20:00:00.001Z", "IBM", NEW_YORK),
        ("2025-03-28T00:00:00Z", "BTC/USD", NEW_YORK),
        ("2025-03-29T20:00:00Z", "IBM", NEW_YORK),
        ("2025-03-28T20:00:00Z", "IBM", Rules(extended_hours=True)),
    ],
    ids=["before", "after", "always open", "Saturday", "extended hours"],
)
def test_other_prints_are_not_noted(tmp_path: Path, time: str, symbol: str, rules: Rules) -> None:
    assert notes(tmp_path, [f"{time},{symbol},2,3"], rules) == []


def test_a_file_with_conditions_has_no_note(tmp_path: Path) -> None:
    assert notes(tmp_path, ["2025-03-28T20:00:00Z,IBM,2,3,6"], NEW_YORK, "time,symbol,price,size,conditions") == []
