"""Currencies of dividends and prices: minor units are converted, and amounts in other currencies are not applied."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tickerplant.core import schemas
from tickerplant.core.adjustment import Closes, adjustment_for, ex_dates_of, payments_of, reasons_not_applied
from tickerplant.core.arrow_values import timestamps
from tickerplant.core.currency import ISO_4217, normal_currency, slashed_pair, units_of
from tickerplant.core.sessions import calendar
from tickerplant.core.times import DAY_US, FOREVER_US

LONDON = calendar("24/7")
EX_DATE = 19_810 * DAY_US


def dividends(*rows: tuple[str, float, str | None]) -> pa.Table:
    """Return dividends of (source, amount, currency), the first on EX_DATE, the others a day apart before it."""
    return pa.table(
        {
            "time": timestamps(EX_DATE - np.arange(len(rows)) * DAY_US),
            "symbol": ["VOD.L"] * len(rows), "amount": [row[1] for row in rows],
            "currency": pa.array([row[2] for row in rows], pa.utf8()), "source": [row[0] for row in rows],
        }
    ).cast(schemas.DIVIDENDS)  # fmt: skip


def factor(paid: pa.Table, reported: pa.Table, close: float) -> tuple[float, list[str | None]]:
    """Return the factor of all prices before the dividends' first ex-date, and the reasons."""
    dates = ex_dates_of(paid)
    closes = Closes(np.full(len(dates), close), dates - DAY_US)
    payments = payments_of(paid, reported)
    made = adjustment_for(schemas.SPLITS.empty_table(), LONDON, FOREVER_US, paid, closes, payments)
    bars = pa.table({"time": timestamps(np.array([0])), "close": [1.0]})
    return made.bars(bars, daily=True).column("close")[0].as_py(), reasons_not_applied(made, paid, payments)


@pytest.mark.parametrize(
    ("amount", "currency", "prices_in", "expected"),
    [
        (4.5, "GBp", "GBp", 1 - 4.5 / 70),  # Vodafone, 2024: 4.5 euro cents are about 3.8 pence; prices are near 70
        (0.045, "GBP", "GBp", 1 - 4.5 / 70),
        (450.0, "GBp", "GBP", 1 - 4.5 / 70),
        (0.045, "ZAR", "ZAc", 1 - 4.5 / 70),
        (0.045, "ILS", "ILA", 1 - 4.5 / 70),
        (4.5, "EUR", "EUR", 1 - 4.5 / 70),
        (4.5, "eur", "EUR", 1 - 4.5 / 70),  # vendors write codes in either case
        (0.045, "gbp", "GBX", 1 - 4.5 / 70),
        (4.5, None, "GBp", 1 - 4.5 / 70),
    ],
)
def test_a_users_dividend_in_a_minor_or_major_unit_is_converted(
    amount: float, currency: str | None, prices_in: str, expected: float
) -> None:
    paid = dividends(("user", amount, currency))
    reported = dividends(("user", amount, currency), ("yahoo", 1.0, prices_in))
    assert factor(paid, reported, 70.0) == (pytest.approx(expected, rel=1e-12), [None])


def test_an_amount_in_another_currency_is_not_applied() -> None:
    reason = "paid in USD, but prices are in GBp"
    paid = dividends(("yahoo", 0.24, "USD/GBp"))
    assert factor(paid, paid, 70.0) == (1.0, [reason])
    entered = dividends(("user", 0.24, "USD"))
    assert factor(entered, dividends(("user", 0.24, "USD"), ("yahoo", 3.0, "GBp")), 70.0) == (1.0, [reason])


def test_a_negative_amount_is_not_applied() -> None:
    paid = dividends(("files", -1.0, "GBp"))
    assert factor(paid, paid, 70.0) == (1.0, ["the amount is negative"])


def test_the_currency_of_prices_is_that_of_the_newest_report_of_a_vendor() -> None:
    reported = dividends(("user", 1.0, "USD"), ("yahoo", 0.24, "EUR/GBP"), ("yahoo", 5.0, "GBp"))
    assert payments_of(dividends(("user", 5.0, "GBp")), reported).amounts.tolist() == [0.05]
    assert payments_of(dividends(("user", 5.0, "GBp")), dividends(("user", 5.0, "GBp"))).prices_in is None


@pytest.mark.parametrize(
    ("amount", "close", "reason"),
    [
        (70.0, 70.0, "the amount is not below the close before the ex-date, 70"),
        (75.0, 70.0, "the amount is not below the close before the ex-date, 70"),
        (1.0, np.nan, "no positive close before the ex-date is stored"),
        (69.0, 70.0, None),
    ],
)
def test_a_dividend_that_is_not_below_the_close_is_reported(amount: float, close: float, reason: str | None) -> None:
    paid = dividends(("yahoo", amount, "GBp"))
    expected = 1.0 if reason else 1 - 69 / 70
    assert factor(paid, paid, close) == (pytest.approx(expected), [reason])


def test_currencies_are_normalised_with_respect_to_their_case() -> None:
    given = ["usd", " EUR ", "GBp", "gbp", "GBX", "ZAC", "ZAc", "ILA", "$", "euro", "EU1", "", "ÄÖÜ"]
    assert [normal_currency(text) for text in given] == [
        "USD", "EUR", "GBp", "GBP", "GBp", "ZAc", "ZAc", "ILA", None, None, None, None, None,
    ]  # fmt: skip
    assert (units_of("GBp", "GBP"), units_of("GBP", "GBp"), units_of("GBp", "ZAc")) == (0.01, 100.0, None)


@pytest.mark.parametrize(
    ("symbol", "pair"),
    [
        ("EURUSD", "EUR/USD"), ("XAU-USD", "XAU/USD"), ("USD_JPY", "USD/JPY"), ("GBP.USD", "GBP/USD"),
        ("EURUSD=X", "EUR/USD"), ("C:EURUSD", "EUR/USD"), ("EUR/USD", None), ("BTCUSD", None), ("GOOGLE", None),
        ("EUR", None), ("AAPL", None), ("EURUSDX", None),
    ],
)  # fmt: skip
def test_a_pair_of_currencies_without_a_slash_is_found(symbol: str, pair: str | None) -> None:
    assert slashed_pair(symbol) == pair


def test_iso_4217_has_money_and_metals_but_no_crypto_coins() -> None:
    assert {"EUR", "USD", "JPY", "XAU", "XAG", "CNH", "ZWG"} <= ISO_4217
    assert not {"BTC", "ETH", "XBT", "XRP", "USDT", "XTS", "XXX"} & ISO_4217
