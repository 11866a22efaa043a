"""The setting `testing.crash_at` kills the process with SIGKILL, without handlers or clean-up."""

import signal
import subprocess
import sys

from tests.support.waiting import PATIENCE

CODE = """
import sys, time
from tests.support.waiting import PATIENCE
from tickerplant.app.runtime import fault_injection as fault
from tickerplant.core import faults
fault.install(sys.argv[1])
for number in range(1, 6):
    faults.reach("other.point")
    faults.reach("here.append.after")
    print(number, flush=True)
time.sleep(float(sys.argv[2]))
"""


def run(fault: str, wait_s: float = 0.0) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, fault, str(wait_s)],
        capture_output=True,
        text=True,
        timeout=PATIENCE.seconds(30),
        check=False,
    )
    return done.returncode, done.stdout.replace("\n", "")


def test_reaching_the_point_the_given_number_of_times_kills_the_process() -> None:
    assert run("here.append.after:3") == (-signal.SIGKILL, "12")


def test_a_point_reached_less_often_kills_no_process() -> None:
    assert run("here.append.after:6") == (0, "12345")
    assert run("never.reached:1") == (0, "12345")


def test_the_point_random_kills_the_process() -> None:
    code, _ = run("random:0.5", wait_s=3_600)
    assert code == -signal.SIGKILL
