"""Progress of a feed's records from the log to the tables."""

from tickerplant.app.ingest_progress import Applied, Positions, ProgressTracker
from tickerplant.core.schemas import ANALYTICS, OHLCV, RAW
from tickerplant.core.version import make_version


def test_records_of_each_topic_and_partition_must_be_stored() -> None:
    v10, v7 = make_version(3, 10), make_version(3, 7)
    applied = {
        (RAW, 0): Applied(11, -1),
        (OHLCV, 0): Applied(4, v10),
        (ANALYTICS, 0): Applied(2, v10),
        (RAW, 1): Applied(8, -1),
        (OHLCV, 1): Applied(100, v7),
        (ANALYTICS, 1): Applied(100, v7),
    }

    def missing(**changed):
        return ProgressTracker({0: 10, 1: 7}, 3).missing(Positions({**applied, **changed.get("to", {})}, {}, {}))

    assert missing() == []
    assert missing(to={(RAW, 0): Applied(10, -1)}) == [(RAW, 0)]
    assert missing(to={(OHLCV, 1): Applied(200, v7 - 1)}) == [(OHLCV, 1)]


def test_a_store_of_an_earlier_generation_has_no_records_of_this_one() -> None:
    old = make_version(1, 1_000_000)
    applied = {(RAW, 0): Applied(11, -1), (OHLCV, 0): Applied(9, old), (ANALYTICS, 0): Applied(9, old)}
    assert ProgressTracker({0: 10}, 2).missing(Positions(applied, {}, {})) == [(OHLCV, 0), (ANALYTICS, 0)]


def test_without_causes_the_committed_positions_of_each_group_decide() -> None:
    tracker = ProgressTracker({0: 10}, 1)

    def missing_topics(
        aggregation: int, analytics: int, stored: tuple[int, int, int], ends: tuple[int, int]
    ) -> list[str]:
        names = (RAW, OHLCV, ANALYTICS)
        now = Positions(
            {(name, 0): Applied(position, 0) for name, position in zip(names, stored, strict=True)},
            {"aggregation": {(RAW, 0): aggregation}, "analytics": {(OHLCV, 0): analytics}},
            {(OHLCV, 0): ends[0], (ANALYTICS, 0): ends[1]},
        )
        return [topic for topic, _ in tracker.missing(now)]

    assert missing_topics(10, 50, (11, 50, 50), (50, 50)) == [OHLCV, ANALYTICS], (
        "aggregation has not read the last record"
    )
    assert missing_topics(11, 50, (11, 50, 50), (53, 50)) == [OHLCV, ANALYTICS], "bars up to 53 must be stored"
    assert missing_topics(20, 52, (20, 90, 50), (90, 50)) == [ANALYTICS], "only bars up to 53 must be read"
    assert missing_topics(20, 53, (20, 90, 50), (90, 55)) == [ANALYTICS], "values up to 55 must be stored"
    assert missing_topics(20, 90, (20, 90, 55), (90, 80)) == []


def test_no_records_are_missing_for_a_feed_without_records() -> None:
    assert ProgressTracker({}, 1).missing(Positions({}, {}, {})) == []
