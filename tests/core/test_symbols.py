"""Symbols, partitions, versions, and the values of a settings record."""

import zlib

import pytest

from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.rules import DEFAULT_RULES, Rules, rules_from, values_of
from tickerplant.core.symbols import check_symbol, partition_of
from tickerplant.core.version import MAX_OFFSET, make_version, split_version


@pytest.mark.parametrize(
    "text",
    [
        *("AAPL", "BRK.B", "EUR/USD", "^GSPC", "RY:TSX", "ES=F", "2330.TW", "BTC-USD"),
        *("M&M.NS", "$SPX", "ES1!", "@ES#", "BRK/B", "贵州茅台", "СБЕР", "É", "A|B"),
    ],
)
def test_a_symbol_has_any_printable_characters(text: str) -> None:
    assert check_symbol(f" {text.lower()} ") == text


def test_two_spellings_of_one_letter_are_one_symbol() -> None:
    assert check_symbol("e\u0301") == check_symbol("\u00e9") == "\u00c9"


@pytest.mark.parametrize(
    "text",
    ["", " ", "A B", "x" * 33, "A\nB", "A,B", "'A'", 'A"', "A`", "*", "*A", "$$", "A\u00a0B", "A\u200bB", "A\x00"],
)
def test_other_text_is_rejected(text: str) -> None:
    with pytest.raises(BadInput, match="is not a symbol"):
        check_symbol(text)


def test_the_partition_is_the_crc32_of_the_name() -> None:
    assert partition_of("GOOG", 4) == zlib.crc32(b"GOOG") % 4


def test_versions_grow_with_offset_and_generation() -> None:
    assert make_version(1, 0) > make_version(0, MAX_OFFSET) > make_version(0, 7)
    assert split_version(make_version(3, 9)) == (3, 9)
    with pytest.raises(ValueError, match="outside"):
        make_version(0, MAX_OFFSET + 1)


def test_a_settings_record_contains_the_differences_from_the_defaults() -> None:
    assert values_of(DEFAULT_RULES) == {}
    rules = Rules(allowed_lateness_us=0, indicators={"5m": ("RSI(14)",)})
    assert rules_from(values_of(rules)) == rules
    reordered = Rules(calendars=dict(reversed(DEFAULT_RULES.calendars.items())))
    assert list(values_of(reordered)["calendars"]) == list(reversed(DEFAULT_RULES.calendars))
    with pytest.raises(ConfigError, match="latness"):
        rules_from({"latness": 1})
