"""The order of sources: the syntax of its entries, and the rank of a source."""

import pytest

from tickerplant.core.errors import ConfigError
from tickerplant.core.sources import BARS, TICKS, Entry, SourceOrder, parse_entry


def test_an_entry_contains_source_kind_symbol_and_interval() -> None:
    assert parse_entry("*") == Entry("*")
    assert parse_entry("nyse:bars") == Entry("nyse", "bars")
    assert parse_entry("a*:ticks@BTC/USD 5m") == Entry("a*", "ticks", "BTC/USD", "5m")
    assert parse_entry("a@RY:TSX") == Entry("a", "", "RY:TSX")


@pytest.mark.parametrize("text", ["", ":bars", "a:", "a:candles", "a@", "@AAPL"])
def test_the_error_for_an_invalid_entry_shows_the_syntax(text: str) -> None:
    with pytest.raises(ConfigError, match="SOURCE"):
        parse_entry(text)


def test_the_first_matching_entry_gives_the_rank() -> None:
    order = SourceOrder(["yahoo:bars@^* 1d", "official:bars", "*:ticks", "*"])
    index, share = order.scope("^GSPC", "1d"), order.scope("AAPL", "1d")
    assert [order.rank(index, name, BARS) for name in ("yahoo", "official", "other")] == [0, 1, 3]
    assert [order.rank(share, name, BARS) for name in ("yahoo", "official", "other")] == [3, 1, 3]
    assert order.rank(share, "official", TICKS) == 2
    assert SourceOrder(["a"]).rank((0,), "b", BARS) == 1
    assert order.scope("^GSPC", "5m") == share
