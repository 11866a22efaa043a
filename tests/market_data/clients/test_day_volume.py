"""Sizes from volumes of the day, with wrong order, new days, errors and corrections."""

from __future__ import annotations

import numpy as np
import pytest

from tickerplant.market_data.clients.twelvedata.day_volume import NEW_DAY_US, RECENT_US, DayVolumes

SECOND = 1_000_000
UNKNOWN = -1.0
"""Replaces NaN, which is not equal to itself."""
Told = tuple[int, float] | tuple[int, float, int]


def volumes_of(symbols: int = 3) -> DayVolumes:
    volumes = DayVolumes()
    volumes.grow(symbols)
    return volumes


def say(volumes: DayVolumes, *told: Told) -> list[float]:
    """Process one batch of (symbol, volume, second); return the sizes in the order of the rows returned."""
    sizes, _ = order(volumes, *told)
    return sizes


def order(volumes: DayVolumes, *told: Told) -> tuple[list[float], list[int]]:
    codes = np.array([one[0] for one in told], np.int32)
    day = np.array([one[1] for one in told], np.float64)
    times = np.array([(one[2] if len(one) > 2 else 0) * SECOND for one in told], np.int64)
    sizes, place = volumes.sizes(codes, day, times)
    unknown = {int(codes[row]) for row in np.flatnonzero(np.isnan(sizes))}
    assert len(unknown) == np.count_nonzero(np.isnan(sizes)), "only the first of a symbol is unknown"
    return np.nan_to_num(sizes, nan=UNKNOWN).tolist(), place.tolist()


def test_the_first_has_no_size_and_an_absent_volume_has_none() -> None:
    volumes = volumes_of()
    assert say(volumes, (0, 100), (1, 7), (0, 103), (0, np.nan), (0, -5), (0, 104)) == [UNKNOWN, UNKNOWN, 3, 0, 0, 1]
    volumes.forget()
    assert say(volumes, (0, 500), (0, 501)) == [UNKNOWN, 1]


def test_ticks_of_a_second_in_the_wrong_order_are_sorted() -> None:
    volumes = volumes_of()
    say(volumes, (0, 100))
    sizes, place = order(volumes, (0, 103, 5), (1, 7, 5), (0, 102, 5), (0, 106, 5))
    assert place == [2, 1, 0, 3]
    assert sizes == [2, UNKNOWN, 1, 3]


def test_an_earlier_second_that_arrived_later_is_sorted_before() -> None:
    volumes = volumes_of()
    say(volumes, (0, 100, 1))
    sizes, place = order(volumes, (0, 106, 6), (0, 103, 5))
    assert (sizes, place) == ([3, 3], [1, 0])


def test_a_late_tick_in_another_batch_has_no_size_and_the_sum_is_right() -> None:
    volumes = volumes_of()
    say(volumes, (0, 100))
    assert say(volumes, (0, 103)) + say(volumes, (0, 102)) + say(volumes, (0, 106)) == [3, 0, 3]


def test_a_downward_correction_keeps_the_former_volume() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000))
    assert say(volumes, (0, 980)) + say(volumes, (0, 990)) + say(volumes, (0, 1_010)) == [0, 0, 10]


def test_a_new_day_begins_at_nothing() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000), (1, 50))
    assert say(volumes, (0, 40), (1, 51), (0, 50)) == [40, 1, 10]
    assert say(volumes, (0, 70)) == [20]


def test_a_late_tick_of_the_day_before_differs_from_a_jump() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000))
    assert say(volumes, (0, 40), (0, 1_005), (0, 45)) == [40, 5, 5]
    assert say(volumes, (0, 1_005)) == [0]
    assert say(volumes, (0, 47)) == [2]


def test_after_hours_of_silence_a_lower_volume_begins_a_new_day() -> None:
    volumes = volumes_of()
    say(volumes, (0, 100, 0), (1, 100, 0))
    hours = NEW_DAY_US // SECOND
    assert say(volumes, (0, 80, hours), (1, 80, hours - 1)) == [80, 0]
    assert say(volumes, (0, 90, hours + 1)) == [10]


def test_a_jump_that_is_corrected_in_the_same_batch_has_no_size() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000))
    assert say(volumes, (0, 90_000_000), (0, 1_010), (0, 1_015)) == [0, 10, 5]


def test_sizes_after_a_jump_that_was_delivered_are_right() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000))
    assert say(volumes, (0, 90_000_000)) == [89_999_000]
    assert say(volumes, (0, 1_010)) + say(volumes, (0, 1_015)) == [10, 5]


def test_a_fall_that_is_corrected_has_no_size() -> None:
    volumes = volumes_of()
    say(volumes, (0, 1_000))
    assert say(volumes, (0, 0)) + say(volumes, (0, 1_004)) + say(volumes, (0, 1_005)) == [0, 4, 1]


def test_an_auction_is_not_an_error() -> None:
    volumes = volumes_of()
    say(volumes, (0, 100, 0))
    assert say(volumes, (0, 50_000, 1)) + say(volumes, (0, 50_010, 2)) == [49_900, 10]
    later = RECENT_US // SECOND + 3
    assert say(volumes, (0, 101, later)) == [101], "by then the volume before the auction is forgotten: a new day"


@pytest.mark.parametrize("seed", range(8))
def test_the_sum_is_right_for_every_order_within_a_second(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 50, (3, 300))
    told: list[Told] = []
    cumulated = sizes.cumsum(axis=1) + 10_000
    for at in range(0, 300, 6):
        of_second = [(code, float(cumulated[code, at + k]), at) for code in range(3) for k in range(6)]
        told += [of_second[k] for k in rng.permutation(len(of_second))]
    volumes, found = volumes_of(), 0.0
    for at in range(0, len(told), 18):
        found += sum(max(0.0, size) for size in say(volumes, *told[at : at + 18]))
    assert found == sizes[:, 1:].sum()


def test_a_decreasing_volume_does_not_affect_other_symbols() -> None:
    rng = np.random.default_rng(1)
    plain = [(code, float(volume), 0) for volume in range(100, 160) for code in (1, 2)]
    mixed = [row for one in plain for row in (one, (0, float(rng.integers(0, 1_000)), 0))]
    expected = say(volumes_of(), *plain)
    sizes, place = order(volumes_of(), *mixed)
    kept = [size for at, size in enumerate(sizes) if mixed[place[at]][0] != 0]
    assert kept == expected
