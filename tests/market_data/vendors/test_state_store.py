"""The state of the request scheduler in a real log: restarts, a second process, and kills."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.market_data.support import embedded
from tests.market_data.vendors.support import NOON_US, ManualClock, Vendor
from tests.support.waiting import PATIENCE
from tickerplant.core.errors import Fenced
from tickerplant.core.schemas import STATE_FEEDS
from tickerplant.core.times import HOUR_US
from tickerplant.log.port import EventLog
from tickerplant.market_data.vendors.port import BarsRequest
from tickerplant.market_data.vendors.scheduler import Choice, Purpose, RequestScheduler, VendorPlan
from tickerplant.market_data.vendors.state_store import StateStore, stored_state

ORDERS = {"intraday": ["a"]}


def desk(log: EventLog, vendor: Vendor) -> tuple[StateStore, RequestScheduler]:
    keeping = StateStore(log)
    made = RequestScheduler(
        VendorPlan({"a": vendor}, ORDERS, reserve=0.25), clock=ManualClock(), save=keeping.save, stored=keeping.stored
    )
    return keeping, made


async def ask(asked: RequestScheduler) -> None:
    choice = asked.choose("1m", "AAPL", NOON_US - HOUR_US, NOON_US, Purpose.HISTORY)
    assert isinstance(choice, Choice)
    await asked.bars(choice, BarsRequest(("AAPL",), "1m", NOON_US - HOUR_US, NOON_US), Purpose.HISTORY)


async def test_the_stored_state_is_read_after_a_restart(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        keeping, first = desk(log, Vendor("a"))
        await ask(first)
        keeping.close()
        keeping.close()
        assert log.state_keys(STATE_FEEDS, 0) == ["desk:a", "desk:a/refusals"]
    with embedded(tmp_path) as log:
        keeping, second = desk(log, Vendor("a"))
        assert second.status()[0].windows[0].used == 1
        assert dict(keeping.stored) == stored_state(log)
        keeping.close()


async def test_a_later_process_takes_the_lock_and_the_previous_process_is_fenced(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        former, later = Vendor("a"), Vendor("a")
        keeping, first = desk(log, former)
        await ask(first)
        taking, second = desk(log, later)
        with pytest.raises(Fenced, match="another process sends requests to vendors with the same log"):
            await ask(first)
        assert len(former.asked) == 1
        await ask(second)
        assert len(later.asked) == 1
        assert second.status()[0].windows[0].used == 2
        keeping.close()
        taking.close()


async def test_a_reader_of_the_state_does_not_take_the_lock(tmp_path: Path) -> None:
    with embedded(tmp_path) as log:
        keeping, first = desk(log, Vendor("a"))
        assert stored_state(log) == {}
        await ask(first)
        assert set(stored_state(log)) == {"a", "a/refusals"}
        await ask(first)
        keeping.close()


CODE = """
import asyncio, sys
from pathlib import Path
from tests.market_data.vendors.support import Vendor
from tests.market_data.vendors.test_state_store import ask, desk
from tests.market_data.support import embedded
from tickerplant.app.runtime import fault_injection as fault

class Counting(Vendor):
    async def bars(self, request):
        with open(sys.argv[1] + "/asked", "a") as file:
            file.write("x")
        return await super().bars(request)

async def main():
    with embedded(Path(sys.argv[1])) as log:
        keeping, made = desk(log, Counting("a"))
        await ask(made)
        keeping.close()

fault.install(sys.argv[2])
asyncio.run(main())
"""


@pytest.mark.parametrize(("point", "asked"), [("desk.debited", ""), ("desk.answered", "x")])
def test_the_credit_stays_spent_after_a_kill_at_each_point(tmp_path: Path, point: str, asked: str) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), f"{point}:1"], cwd=root, env={"PYTHONPATH": str(root)},
        capture_output=True, text=True, timeout=PATIENCE.seconds(60), check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert ((tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else "") == asked
    with embedded(tmp_path) as log:
        keeping, after = desk(log, Vendor("a"))
        status = after.status()[0]
        assert [window.used for window in status.windows] == [1, 1]
        keeping.close()
