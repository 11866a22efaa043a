"""An outage is logged at its first failure only, and ends with the first success."""

from tickerplant.core.outage import Outage


def test_only_the_first_failure_of_an_outage_is_logged_and_its_start_is_kept() -> None:
    outage = Outage()
    assert [outage.fail(f"error {n}", 100.0 + n) for n in range(3)] == [True, False, False]
    assert (outage.error, outage.since_s, outage.failures, outage.repeats) == ("error 2", 100.0, 3, True)
    assert outage.end() == 3
    assert (outage.error, outage.since_s, outage.failures, outage.repeats) == ("", 0.0, 0, False)
    assert outage.end() == 0, "no outage"
    assert outage.fail("again", 200.0)
    assert (outage.since_s, outage.repeats) == (200.0, False)
