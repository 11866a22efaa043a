"""A plant of one process (`up`) on the sandbox, and the equality of log and store after a disturbance."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.support import rows
from tests.support.plant import Plant, kill_tree
from tests.support.waiting import PATIENCE, until
from tickerplant.app.wiring.store import positions
from tickerplant.core import records
from tickerplant.core.arrow_values import times_of
from tickerplant.core.errors import LogError
from tickerplant.core.schemas import RAW
from tickerplant.log.open import open_log

SYMBOLS = ("AAPL", "BTC/USD")


@dataclass
class PrefixedPlant(Plant):
    """A plant whose commands run through the command `prefix`."""

    prefix: tuple[str, ...] = field(default=())

    def command(self, *arguments: str) -> list[str]:
        return [*self.prefix, *super().command(*arguments)]


def settings(store: str, port: int) -> dict[str, str]:
    """Return the environment of a plant; `store` is the address of its database, or `embedded`."""
    env = {
        "TICKERPLANT_SYMBOLS": ",".join(SYMBOLS), "TICKERPLANT_PARTITIONS": "2", "TICKERPLANT_HISTORY": "none",
        "TICKERPLANT_SANDBOX__RATE": "60", "TICKERPLANT_API__PORT": str(port),
    }  # fmt: skip
    return env if store == "embedded" else {**env, "TICKERPLANT_STORE": store}


class SinglePlant:
    """The running process of a plant; its output is in a file."""

    def __init__(self, plant: Plant, output: Path) -> None:
        self.plant, self.output = plant, output
        self.base = f"http://127.0.0.1:{plant.env['TICKERPLANT_API__PORT']}"
        self.process: subprocess.Popen[bytes] = plant.start("up", output=output)

    def start_again(self) -> None:
        """Start the plant again after `stop`."""
        self.process = self.plant.start("up", output=self.output)

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the components by name; {} while the API does not answer."""
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{self.base}/health", timeout=PATIENCE.seconds(20))
            return {part["name"]: part for part in answer.json()["parts"]}
        return {}

    def state(self, component: str) -> str:
        """Return the state of a component, or `no answer`."""
        return str(self.health().get(component, {}).get("state", "no answer"))

    def wait(self, what: str, condition: Callable[[], Any], timeout_s: float = 90) -> None:
        """Wait until the condition holds; fail at once if the process ends meanwhile."""

        def checked() -> Any:
            assert self.process.poll() is None, f"the plant ended with {self.process.returncode}"
            return condition()

        until(checked, what, timeout_s)

    def logged(self) -> int:
        """Return the number of raw records; 0 before the log exists."""
        with contextlib.suppress(LogError), contextlib.closing(open_log("embedded:", data=self.plant.data)) as log:
            return sum(end for _, end in log.offsets(RAW).values())
        return 0

    def stored(self) -> int:
        """Return the number of stored ticks."""
        with self.plant.store() as dsn:
            return int(rows(dsn, "SELECT count(*) FROM realtime_prices")[0][0])

    def grows(self, what: str, timeout_s: float = 90) -> None:
        """Wait until ticks are appended and stored."""
        self.wait("the API", self.health)
        self.wait("the store", lambda: self.state("store") == "ok")
        logged, stored = self.logged(), self.stored()
        self.wait(f"records {what}", lambda: self.logged() > logged + 20, timeout_s)
        self.wait(f"rows {what}", lambda: self.stored() > stored + 20, timeout_s)

    def stop(self) -> None:
        """Stop the process cleanly."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE.seconds(60)) == 0

    def assert_equal(self) -> None:
        """Assert that `verify` recomputes the log's output, and that the store has all ticks before its positions."""
        self.plant.run("verify")
        with self.plant.store() as dsn, contextlib.closing(open_log("embedded:", data=self.plant.data)) as log:
            applied = positions(dsn)
            wanted = []
            for source, (first, _) in log.offsets(RAW).items():
                for record in log.read_range(source, first, applied.get((source.topic, source.partition), first)):
                    found = records.decode(record.value)
                    if isinstance(found.header, records.Ticks):
                        batch = found.batch
                        columns = (batch[name].to_pylist() for name in ("symbol", "price", "size"))
                        wanted += zip(times_of(batch["time"]).tolist(), *columns, strict=True)
            micros = "(extract(epoch FROM time) * 1000000)::bigint"
            stored = rows(dsn, f"SELECT {micros}, symbol, price, size FROM realtime_prices")
        assert len(wanted) > 100
        assert sorted(stored) == sorted(wanted)


@contextlib.contextmanager
def explained(running: SinglePlant) -> Iterator[SinglePlant]:
    """End the plant at the end of the block; print the end of its output if the block fails."""
    try:
        yield running
    except BaseException:
        print(*running.output.read_text(errors="replace").splitlines()[-60:], sep="\n")
        raise
    finally:
        kill_tree(running.process)
