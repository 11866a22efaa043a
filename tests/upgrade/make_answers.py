"""Write answers.json.xz with the version that PYTHON has installed; see README.md."""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.upgrade import answers


def collect(url: str) -> dict[str, Any]:
    """Return all answers of an API on the fixture."""
    return {"rest": answers.rest(url), "stream": answers.stream(url)}


def main(out: Path) -> None:
    """Load the fixture into a separate database server, run the API with a stopped clock, and send the requests."""
    from tickerplant.store.embedded import DATABASE, EmbeddedPostgres  # where 28f7935 has it

    from tests.upgrade.fixture import open_embedded

    with tempfile.TemporaryDirectory(dir="/tmp") as name, EmbeddedPostgres(Path(name) / "postgres") as server:
        Path(name).chmod(0o755)
        import asyncio

        import asyncpg

        async def make() -> None:
            connection = await asyncpg.connect(server.dsn.replace(f"@/{DATABASE}?", "@/postgres?"))
            await connection.execute("CREATE DATABASE fixture")
            await connection.close()

        asyncio.run(make())
        opened = open_embedded(Path(name) / "data", server.dsn.replace(f"@/{DATABASE}?", "@/fixture?"))
        with opened.running("run", "api", rate=0) as url:
            out.write_bytes(lzma.compress(json.dumps(collect(url)).encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
