"""The old command of the sandbox, which works for one more version. Use `python -m tickerplant.sandbox`."""

from __future__ import annotations

import runpy
import warnings

if __name__ == "__main__":
    warnings.warn(
        "python -m tickerplant.market_data.sandbox works for one more version only; use python -m tickerplant.sandbox",
        FutureWarning,
        stacklevel=1,
    )
    runpy.run_module("tickerplant.sandbox", run_name="__main__", alter_sys=True)
