"""Schedules without exchange_calendars: those in the package, their other names, and the message for others."""

from __future__ import annotations

import datetime as dt
import sys
from importlib import metadata

import numpy as np
import pytest

from tickerplant.core import schedules
from tickerplant.core.errors import MissingExtra
from tickerplant.core.schedules import calendar_version, packaged_calendars, packaged_schedule
from tickerplant.core.sessions import calendar
from tickerplant.core.times import micros_of


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an installation without the extra `calendars`."""
    version = metadata.version

    def installed(name: str) -> str:
        if name == "exchange_calendars":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(schedules.metadata, "version", installed)
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    calendar.cache_clear()


@pytest.mark.usefixtures("without_library")
def test_every_packaged_calendar_is_read_without_the_library() -> None:
    assert len(packaged_calendars()) > 60
    for name in packaged_calendars():
        found = packaged_schedule(name)
        assert found is not None
        assert (np.diff(found["dates"]) > 0).all(), name
        assert (found["open"] < found["close"]).all(), name


@pytest.mark.parametrize(
    ("name", "day", "opens", "closes"),
    [
        # From the exchanges' own pages: regular hours in UTC, and a half day.
        ("XLON", "2025-07-01", "07:00", "15:30"),
        ("XLON", "2025-12-24", "08:00", "12:30"),
        ("LSE", "2025-07-01", "07:00", "15:30"),
        ("XTKS", "2025-07-01", "00:00", "06:30"),
        ("XETR", "2025-01-02", "08:00", "16:30"),
        ("XFRA", "2025-01-02", "08:00", "16:30"),
    ],
)
@pytest.mark.usefixtures("without_library")
def test_the_hours_of_a_packaged_calendar(name: str, day: str, opens: str, closes: str) -> None:
    def at(time: str) -> int:
        return micros_of(dt.datetime.fromisoformat(f"{day}T{time}+00:00"))

    found, session = calendar(name), np.array([at("00:00")])
    assert (found.name, found.open_of(session).tolist(), found.close_of(session).tolist()) == (
        name, [at(opens)], [at(closes)],
    )  # fmt: skip


@pytest.mark.usefixtures("without_library")
def test_a_calendar_that_is_not_packaged_names_the_extra() -> None:
    with pytest.raises(MissingExtra, match=r"^the calendar 'XTAE' .*pip install 'tickerplant\[calendars\]'$"):
        calendar("XTAE")


def test_the_version_of_the_calendars_is_the_librarys_or_the_packages(request: pytest.FixtureRequest) -> None:
    installed = metadata.version("exchange_calendars")
    assert calendar_version() == installed
    request.getfixturevalue("without_library")
    assert calendar_version() == installed  # `tools/calendars.py` has run for this version


def test_another_version_of_the_library_computes_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packaged_schedule("XLON") is not None
    monkeypatch.setattr(schedules.metadata, "version", lambda _: "99.0")
    assert packaged_schedule("XLON") is None
    assert calendar_version() == "99.0"


def test_calendars_are_not_loaded_by_an_unknown_name() -> None:
    assert packaged_schedule("NOWHERE") is None
