"""A terminated benchmark waits until its child processes have stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.support.children import run_to_end

ROOT = Path(__file__).parents[2]
CHILD = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
try:
    print("started", flush=True)
    time.sleep(300)
finally:
    Path("stopped").touch()
"""
PARENT = """
import signal, sys
from pathlib import Path
from benchmarks.support.children import run_to_end
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(run_to_end([sys.executable, "-c", sys.argv[2]], Path(sys.argv[1])))
"""


def test_a_terminated_parent_waits_until_its_child_has_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), CHILD]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        parent.send_signal(signal.SIGTERM)
        assert parent.wait() == 143
    assert (tmp_path / "stopped").exists()


def test_exit_code_and_output_of_a_child_are_returned(tmp_path: Path) -> None:
    with (tmp_path / "output.txt").open("w+b") as file:
        assert run_to_end([sys.executable, "-c", "import sys; sys.exit('error')"], tmp_path, output=file) == 1
        file.seek(0)
        assert file.read() == b"error\n"
