"""Sizes of ticks, derived from the cumulative volume of the day despite disorder, new days and corrections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickerplant.market_data.clients.twelvedata.day_volume import NEW_DAY_US, DayVolumes

SECOND = 1_000_000
UNKNOWN = -1.0
"""Size in place of NaN, which `==` never matches."""
Update = tuple[int, float] | tuple[int, float, int]


def volumes_of(symbols: int = 3) -> DayVolumes:
    volumes = DayVolumes()
    volumes.grow(symbols)
    return volumes


def sizes_of(volumes: DayVolumes, *updates: Update) -> list[float]:
    """Process a batch of (symbol, volume[, second]); return the sizes in time order, UNKNOWN for NaN."""
    sizes, _ = order(volumes, *updates)
    return sizes


def order(volumes: DayVolumes, *updates: Update) -> tuple[list[float], list[int]]:
    codes = np.array([one[0] for one in updates], np.int32)
    day = np.array([one[1] for one in updates], np.float64)
    times = np.array([(one[2] if len(one) > 2 else 0) * SECOND for one in updates], np.int64)
    sizes, order_of = volumes.sizes(codes, day, times)
    return np.nan_to_num(sizes, nan=UNKNOWN).tolist(), order_of.tolist()


def test_the_first_tick_of_a_symbol_and_a_tick_without_a_volume_have_no_size() -> None:
    volumes = volumes_of()
    assert sizes_of(volumes, (0, 100), (1, 7), (0, 103), (0, np.nan), (0, -5), (0, 104)) == [
        UNKNOWN,
        UNKNOWN,
        3,
        0,
        0,
        1,
    ]
    volumes.forget()
    assert sizes_of(volumes, (0, 500), (0, 501)) == [UNKNOWN, 1]


def test_ticks_of_one_second_are_sorted_by_volume() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 100))
    sizes, order_of = order(volumes, (0, 103, 5), (1, 7, 5), (0, 102, 5), (0, 106, 5))
    assert order_of == [2, 1, 0, 3]
    assert sizes == [2, UNKNOWN, 1, 3]


def test_ticks_of_a_batch_are_sorted_by_time() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 100, 1))
    sizes, order_of = order(volumes, (0, 106, 6), (0, 103, 5))
    assert (sizes, order_of) == ([3, 3], [1, 0])


def test_the_size_of_a_late_tick_in_another_batch_is_unknown_and_the_sum_is_right() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 100))
    assert sizes_of(volumes, (0, 103)) + sizes_of(volumes, (0, 102)) + sizes_of(volumes, (0, 106)) == [3, UNKNOWN, 3]


def test_a_downward_correction_keeps_the_former_volume() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 1_000))
    found = sizes_of(volumes, (0, 980)) + sizes_of(volumes, (0, 990)) + sizes_of(volumes, (0, 1_010))
    assert found == [UNKNOWN, UNKNOWN, 10]


def test_the_volume_of_a_new_day_begins_at_zero() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 1_000), (1, 50))
    assert sizes_of(volumes, (0, 40), (1, 51), (0, 50)) == [UNKNOWN, 1, 50]
    assert sizes_of(volumes, (0, 70)) == [20]


def test_a_late_tick_of_the_previous_day_has_the_increase_of_that_day_as_its_size() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 1_000))
    assert sizes_of(volumes, (0, 40), (0, 1_005), (0, 45)) == [UNKNOWN, 5, UNKNOWN]
    assert sizes_of(volumes, (0, 1_005)) == [0]
    assert sizes_of(volumes, (0, 47)) == [UNKNOWN]
    assert sizes_of(volumes, (0, 48)) == [48]


def test_after_hours_of_silence_a_lower_volume_begins_a_new_day() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 100, 0), (1, 100, 0))
    hours = NEW_DAY_US // SECOND
    assert sizes_of(volumes, (0, 40, hours), (1, 40, hours - 1)) == [40, UNKNOWN]
    assert sizes_of(volumes, (0, 50, hours + 1)) == [10]


def test_after_hours_of_silence_a_slightly_lower_volume_may_be_a_correction() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 5_000_000, 0))
    hours = NEW_DAY_US // SECOND
    assert sizes_of(volumes, (0, 4_999_990, hours), (0, 5_000_010, hours + 1)) == [UNKNOWN, 20]


def test_an_error_after_hours_of_silence_gives_no_size_of_the_whole_day() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 5_000_000, 0))
    hours = NEW_DAY_US // SECOND
    errors = [(0, volume, hours + at) for at, volume in enumerate((40, 5_000_010, 5_000_020))]
    found = [size for one in errors for size in sizes_of(volumes, one)]
    assert found == [40, UNKNOWN, 0]  # the growth of 20 is in the 40
    assert sizes_of(volumes, (0, 5_000_050, hours + 9)) == [10]


def test_volumes_that_fall_at_midnight_utc_begin_a_new_day_without_silence() -> None:
    # A crypto exchange trades round the clock: sizes of the second day do not depend on those of the first.
    volumes, midnight = volumes_of(), 86_400
    sizes_of(volumes, (0, 0, midnight - 9))
    sizes_of(volumes, (0, 1_000, midnight - 8), (0, 1_500, midnight - 7), (0, 2_000, midnight - 1))
    assert sizes_of(volumes, (0, 30, midnight)) + sizes_of(volumes, (0, 35, midnight + 1)) == [UNKNOWN, 35]
    found = [size for at in range(2, 90) for size in sizes_of(volumes, (0, 35 + 10 * at, midnight + at))]
    assert sum(found) == 890


def test_sizes_after_a_fall_within_a_day_are_unknown_until_hours_later() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 0, 0))
    sizes_of(volumes, (0, 1_000, 1))
    assert sizes_of(volumes, (0, 1_100, 2)) == [1_100]  # all of the session has been counted
    assert sizes_of(volumes, (0, 30, 3), (0, 35, 4)) == [UNKNOWN, UNKNOWN]
    hours = NEW_DAY_US // SECOND
    low = [size for at in range(5, hours, 600) for size in sizes_of(volumes, (0, 35 + at / 100, at))]
    assert {*low} == {UNKNOWN}
    assert sizes_of(volumes, (0, 200, hours + 5), (0, 210, hours + 6))[1] == 10


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "a batch for each tick"])
@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        ((1_000, 90_000_000, 1_010, 1_015), (UNKNOWN, 10, 5)),
        ((1_000, 0, 1_004, 1_005), (UNKNOWN, 4, 1)),
        ((5_000_000, 40, 100, 5_000_200), (UNKNOWN, UNKNOWN, 200)),
        ((5_000_000, 40, 45, 5_000_200, 5_000_300), (UNKNOWN, 45, UNKNOWN, 255)),
        ((5_000_000, 40, 40, 5_000_200, 5_000_200), (UNKNOWN, UNKNOWN, 200, 0)),
        ((5_000_000, 40, 90_000_000, 50, 5_000_010), (UNKNOWN, UNKNOWN, UNKNOWN, 10)),
        ((5_000_000, 40, 45, 5_000_010, 5_000_020, 5_000_090), (UNKNOWN, 45, UNKNOWN, 0, 45)),
    ],
    ids=["jump", "fall", "fall and rise", "continued fall", "repeated fall", "fall and jump", "debt over two ticks"],
)
def test_the_total_is_right_after_an_error(
    volume: tuple[float, ...], expected: tuple[float, ...], together: bool
) -> None:
    volumes = volumes_of()
    updates: list[Update] = [(0, each, second) for second, each in enumerate(volume)]
    batches = [updates] if together else [[one] for one in updates]
    found = [size for batch in batches for size in sizes_of(volumes, *batch)]
    assert found == [UNKNOWN, *expected]
    assert sum(max(0, size) for size in found) == volume[-1] - volume[0]


def test_an_auction_is_not_an_error() -> None:
    volumes = volumes_of()
    sizes_of(volumes, (0, 100, 0))
    assert sizes_of(volumes, (0, 50_000, 1)) + sizes_of(volumes, (0, 50_010, 2)) == [UNKNOWN, 49_910]


@pytest.mark.parametrize("seed", range(40))
def test_any_single_error_in_a_session_leaves_the_total_right(seed: int) -> None:
    # A session grows by less than its volume per tick. One volume is wrong, late or repeated.
    rng = np.random.default_rng(seed)
    volume = 2_000 + rng.integers(0, 400, 60).cumsum().astype(float)
    at = int(rng.integers(1, 58))
    wrong = rng.choice([0, 40, volume[at] * 0.9, volume[at] * 3, volume[at] * 1_000, volume[at - 1]])
    given = [*volume[:at], float(wrong), *volume[at:]]
    volumes, found, start = volumes_of(), [], 0
    while start < len(given):
        end = start + int(rng.integers(1, 9))
        found += sizes_of(volumes, *[(0, given[k], k) for k in range(start, min(end, len(given)))])
        total = sum(max(0.0, size) for size in found)
        assert total <= max(given[: len(found)])
        if len(found) > at + 2:
            assert total == given[len(found) - 1] - given[0]
        start = end
    assert found.count(UNKNOWN) <= 2


@pytest.mark.parametrize("seed", range(40))
def test_no_sequence_of_volumes_gives_more_than_the_highest_of_them(seed: int) -> None:
    # Errors jump between few levels, near the true volume and far from it, without hours of silence.
    rng = np.random.default_rng(seed)
    true = 1_000_000 + rng.integers(0, 500, 80).cumsum().astype(float)
    given = np.where(rng.random(80) < 0.4, rng.integers(0, 200, 80), true)
    given[0], given[-3:] = true[0], true[-3:]
    volumes = volumes_of()
    found = [size for k in range(80) for size in sizes_of(volumes, (0, given[k], k))]
    assert sum(max(0.0, size) for size in found) <= given.max()
    assert max(found) < given.max() / 2


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 40, 100, 999, 5_000_000, 5_000_200, 90_000_000]) | st.integers(0, 10_000),
            st.integers(0, 60),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=24,
    )
)
def test_sizes_of_one_date_never_add_up_to_more_than_the_highest_volume(rows: list[tuple[int, int, int]]) -> None:
    volumes, found, at, time = volumes_of(), list[float](), 0, 0
    while at < len(rows):
        batch: list[Update] = []
        for volume, pause, _ in rows[at : at + rows[at][2]]:
            time += pause
            batch.append((0, volume, time))
        at += len(batch)
        found += sizes_of(volumes, *batch)
    assert all(size == UNKNOWN or size >= 0 for size in found)
    assert sum(size for size in found if size > 0) <= max(volume for volume, _, _ in rows)


@pytest.mark.parametrize("seed", range(8))
def test_the_sum_is_right_for_every_order_within_a_second(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 50, (3, 300))
    updates: list[Update] = []
    cumulated = sizes.cumsum(axis=1) + 10_000
    for at in range(0, 300, 6):
        of_second = [(code, float(cumulated[code, at + k]), at) for code in range(3) for k in range(6)]
        updates += [of_second[k] for k in rng.permutation(len(of_second))]
    volumes, found = volumes_of(), 0.0
    for at in range(0, len(updates), 18):
        found += sum(max(0.0, size) for size in sizes_of(volumes, *updates[at : at + 18]))
    assert found == sizes[:, 1:].sum()


def test_a_decreasing_volume_does_not_affect_other_symbols() -> None:
    rng = np.random.default_rng(1)
    plain = [(code, float(volume), 0) for volume in range(100, 160) for code in (1, 2)]
    mixed = [row for one in plain for row in (one, (0, float(rng.integers(0, 1_000)), 0))]
    expected = sizes_of(volumes_of(), *plain)
    sizes, order_of = order(volumes_of(), *mixed)
    others = [size for at, size in enumerate(sizes) if mixed[order_of[at]][0] != 0]
    assert others == expected
