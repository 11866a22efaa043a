"""The command `action`: a user's split is in the log and the store, and changes earlier indicator values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.support import replay, rows
from tests.support.commands import assert_refused, invoke, objects
from tests.support.plant import Plant

from tickerplant.analytics import compute

DAYS, SPLIT_AT = 90, 60
FIRST = dt.date(2025, 6, 2)
DATES = [day for i in range(200) if (day := FIRST + dt.timedelta(days=i)).weekday() < 5][:DAYS]
RULES = '[rules.indicators]\n"1d" = ["SMA(5)", "EMA(12)", "OBV"]\n[rules.calendars]\n"*" = "24/7"\n'


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    """Yield a stopped plant with a running store. It has daily bars of ACME, whose prices show a 4:1 split."""
    folder = tmp_path_factory.mktemp("action")
    (folder / "settings.toml").write_text(RULES)
    plant = Plant(folder / "data", {"TICKERPLANT_CONFIG": str(folder / "settings.toml")})
    lines = [
        f"{day},ACME,{p:.3f},{p * 1.01:.3f},{p * 0.99:.3f},{p:.3f},{1000 + i % 7}"
        for i, day in enumerate(DATES)
        if (p := (100 + i % 11) / (4 if i >= SPLIT_AT else 1))
    ]
    (folder / "acme.csv").write_text("\n".join(["date,symbol,open,high,low,close,volume", *lines]) + "\n")
    with plant.store():
        replay(plant, folder / "acme.csv", "--interval", "1d")
        yield plant


def values(plant: Plant) -> np.ndarray:
    with plant.store() as dsn:
        found = rows(
            dsn,
            "SELECT sma_5, ema_12, obv FROM daily_analytics WHERE symbol = 'ACME' AND state = 'final' ORDER BY time",
        )
    return np.array(found, dtype=np.float64)


def batch(plant: Plant, ratio: float) -> np.ndarray:
    """Return indicator values of the stored bars, after dividing prices before the split by `ratio`."""
    with plant.store() as dsn:
        found = rows(
            dsn, "SELECT close, volume FROM historical_ohlcv WHERE symbol = 'ACME' AND interval = '1d' ORDER BY time"
        )
    close, volume = np.array(found, dtype=np.float64).T
    before = np.arange(DAYS) < SPLIT_AT
    bars = {"close": np.where(before, close / ratio, close), "volume": np.where(before, volume * ratio, volume)}
    return np.column_stack([*compute(bars, ["SMA(5)", "EMA(12)", "OBV"]).values()])


def test_values_equal_a_batch_over_adjusted_bars(plant: Plant) -> None:
    day = DATES[SPLIT_AT].isoformat()
    np.testing.assert_allclose(values(plant), batch(plant, 1.0), rtol=1e-12)
    (report,) = objects(invoke(plant, "action", "split", "acme", day, "4:1", "--json"))
    assert (report["symbol"], report["numerator"], report["waited"]) == ("ACME", 4.0, True)
    np.testing.assert_allclose(values(plant), batch(plant, 4.0), rtol=1e-12)
    again = invoke(plant, "action", "split", "ACME", day, "4:1")
    assert again.out == f"ACME {day}: split 4:1 is in the tables\n"
    np.testing.assert_allclose(values(plant), batch(plant, 4.0), rtol=1e-12)
    (row,) = objects(invoke(plant, "action", "list", "ACME", "--json"))
    assert row == {
        "kind": "split", "symbol": "ACME", "date": day, "numerator": 4.0, "denominator": 1.0, "source": "user",
        "counts": True,
    }  # fmt: skip
    assert invoke(plant, "action", "split", "ACME", day, "1:1").code == 0
    np.testing.assert_allclose(values(plant), batch(plant, 1.0), rtol=1e-12)


def test_query_prints_bars_as_traded_or_adjusted(plant: Plant) -> None:
    day = DATES[SPLIT_AT].isoformat()
    invoke(plant, "action", "split", "ACME", day, "4:1")
    invoke(plant, "action", "dividend", "ACME", DATES[70].isoformat(), "0.5")

    def closes(*options: str) -> list[float]:
        return [row["close"] for row in objects(invoke(plant, "query", "ACME", "--json", *options))]

    traded, splits, every = closes(), closes("--adjust", "splits"), closes("--adjust", "all")
    assert traded == closes("--adjust", "none")
    before = np.arange(DAYS) < SPLIT_AT
    np.testing.assert_allclose(splits, np.where(before, np.array(traded) / 4, traded), rtol=1e-12)
    factor = np.where(np.arange(DAYS) < 70, 1 - 0.5 / traded[69], 1.0)
    np.testing.assert_allclose(every, np.array(splits) * factor, rtol=1e-12)
    (row,) = objects(invoke(plant, "query", "ACME", "--adjust", "splits", "--end", day, "-n", "1", "--json"))
    assert (row["adjust"], row["volume"]) == ("splits", 4 * (1000 + (SPLIT_AT - 1) % 7))
    beside = objects(invoke(plant, "query", "ACME", "--adjust", "splits", "--indicator", "SMA(5)", "--json"))
    assert [row["close"] for row in beside] == splits
    assert beside[-1]["sma_5"] == pytest.approx(np.mean(splits[-5:]))
    assert beside[SPLIT_AT]["sma_5"] == pytest.approx(np.mean(splits[SPLIT_AT - 4 : SPLIT_AT + 1]))
    shown = invoke(plant, "query", "ACME", "--adjust", "all").out
    assert shown.splitlines()[0].strip() == "ACME 1d, adjusted for splits and dividends"
    assert_refused(invoke(plant, "query", "ACME", "--adjust", "back"), 2, "none, splits or all")
    counts = [(row["kind"], row["counts"]) for row in objects(invoke(plant, "action", "list", "ACME", "--json"))]
    assert counts == [("split", True), ("dividend", True)]
    assert invoke(plant, "action", "split", "ACME", day, "1:1").code == 0


def test_a_dividend_is_stored_and_may_be_repeated(plant: Plant) -> None:
    for _ in range(2):
        (report,) = objects(
            invoke(plant, "action", "dividend", "PAYS", "2025-08-08", "0.26", "--currency", "usd", "--json")
        )
        assert (report["amount"], report["currency"]) == (0.26, "USD")
    assert len(objects(invoke(plant, "action", "list", "PAYS", "--json"))) == 1
    assert "0.26" in invoke(plant, "action", "list", "PAYS").out
    assert "is in the log" in invoke(plant, "action", "dividend", "PAYS", "2025-11-07", "0.26", "--no-wait").out
    assert "no splits or dividends of NONE" in invoke(plant, "action", "list", "NONE").err


def test_invalid_actions_are_refused_in_one_sentence(plant: Plant, tmp_path: Path) -> None:
    split = ("action", "split", "ACME")
    assert_refused(invoke(plant, *split, "31.8.2020", "4:1"), 2, "is not a date; write a date such as 2020-08-31")
    assert_refused(invoke(plant, *split, "0020-08-31", "4:1"), 2, "outside the years")
    assert_refused(invoke(plant, *split, "2020-08-31", "4"), 2, "is not a ratio")
    assert_refused(invoke(plant, *split, "2020-08-31", "4:0"), 2, "'0' is not a positive number")
    assert_refused(invoke(plant, "action", "split", "A B", "2020-08-31", "4:1"), 2, "is not a symbol")
    assert_refused(invoke(plant, "action", "dividend", "ACME", "2020-08-31", "-1"), 2, "'-1' is not a positive number")
    assert_refused(
        invoke(plant, "action", "dividend", "ACME", "2020-08-31", "1", "--currency", "$"), 2, "is not a currency"
    )
    assert_refused(invoke(Plant(tmp_path / "none"), *split, "2020-08-31", "4:1"), 1, "there is no plant in")


def test_a_dividend_that_is_not_applied_is_listed_with_its_reason(plant: Plant) -> None:
    last = DATES[69].isoformat()
    before = (100 + 68 % 11) / 4
    said = invoke(plant, "action", "dividend", "ACME", last, "80")
    assert f"ACME {last}: bars are not adjusted for the dividend: the amount is not below the close" in said.err
    rows = objects(invoke(plant, "action", "list", "ACME", "--json"))
    (row,) = [row for row in rows if row["kind"] == "dividend" and row["date"] == last]
    assert (row["counts"], row["note"]) == (False, f"the amount is not below the close before the ex-date, {before:g}")
    (said_row,) = objects(invoke(plant, "action", "dividend", "PENCE", last, "24", "--currency", "GBX", "--json"))
    assert said_row["currency"] == "GBp"
    (row,) = objects(invoke(plant, "action", "list", "PENCE", "--json"))
    assert row["note"] == "no positive close before the ex-date is stored"


def test_an_amount_counts_as_it_is_while_no_vendor_has_reported_the_currency_of_the_prices(plant: Plant) -> None:
    date = DATES[66]
    said = invoke(plant, "action", "dividend", "ACME", f"{date:%Y%m%d}", "0.01", "--currency", "GBP")
    note = "no vendor has reported the currency of the prices; they are taken to be in GBP"
    assert f"ACME {date}: {note}" in said.err
    (row,) = [row for row in objects(invoke(plant, "action", "list", "ACME", "--json")) if row["date"] == f"{date}"]
    assert (row["counts"], row["note"]) == (True, note)


def test_query_builds_weeks_from_stored_days(plant: Plant) -> None:
    weeks = objects(invoke(plant, "query", "ACME", "-i", "1w", "--json", "-n", "3"))
    days = objects(invoke(plant, "query", "ACME", "--json", "-n", "90"))
    by_week: dict[str, list[dict[str, float]]] = {}
    for day in days:
        date = dt.date.fromisoformat(str(day["time"])[:10])
        by_week.setdefault(str(date - dt.timedelta(days=date.weekday())), []).append(day)
    assert [str(week["time"])[:10] for week in weeks] == [*by_week][-3:]
    for week in weeks:
        of_it = by_week[str(week["time"])[:10]]
        assert week["open"] == of_it[0]["open"]
        assert week["high"] == max(day["high"] for day in of_it)
        assert week["volume"] == sum(day["volume"] for day in of_it)
    assert [week["state"] for week in weeks] == ["final"] * 3, "the last week ended years ago, with no more bars"
    (beside,) = objects(invoke(plant, "query", "ACME", "-i", "1w", "--indicator", "SMA(2)", "-n", "1", "--json"))
    assert beside["sma_2"] == pytest.approx((weeks[-1]["close"] + weeks[-2]["close"]) / 2)
    assert "no 15m bars" in invoke(plant, "query", "ACME", "-i", "15m").err
