"""Write names.json; see README.md. This script imports the modules of commit 28f7935."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

SAMPLES = {
    "data": "/tmp/x", "log": "sqlite:////tmp/x.sqlite", "store": "postgresql://u:p@localhost/x", "partitions": "9",
    "snapshot_records": "77", "instance": "seven", "symbols": "AAPL,EUR/USD", "history": "1d:30", "api.host": "0.0.0.0",
    "api.port": "1234", "api.key": "k", "alerts.private_webhooks": "false", "alerts.webhook_timeout_s": "3.5",
    "alerts.webhook_hours": "2.5", "vendors.twelve_data_key": "k", "vendors.alpha_vantage_key": "k",
    "vendors.keys": '{"acme": "k"}', "vendors.stream": "none", "vendors.intraday": "yahoo", "vendors.daily": "yahoo",
    "vendors.actions": "none", "vendors.quotas": "twelvedata=610/minute", "vendors.reserve": "0.5",
    "vendors.options": '{"acme": {"plan": "gold"}}', "sandbox.enabled": "true", "sandbox.rate": "3.0",
    "sandbox.seed": "8", "sandbox.port": "4321", "sandbox.url": "http://127.0.0.1:1", "sandbox.vendors": "yahoo",
    "sandbox.sessions": "us", "sandbox.start": "2026-03-09T13:30:00Z", "sandbox.speed": "2.0",
    "sandbox.free_plans": "true", "sandbox.script": "60 do=mute&seconds=30", "sandbox.chaos": "5",
    "rules.lateness_ms": "250", "rules.sources": "a,b", "rules.source_wait_ms": "10",
    "rules.calendars": '{"*": "XLON"}',
    "rules.extended_hours": "true", "rules.memory_sessions": "2", "rules.activity_bars": '{"AAPL": ["100t"]}',
    "rules.indicators": '{"1d": ["SMA(3)"]}', "rules.forming_indicators": "SMA(3)",
    "kafka": '{"security_protocol": "SSL"}', "log_level": "debug", "log_format": "json", "fault": "random:9",
}  # fmt: skip
"""A value of each setting that is not its default."""


def settings() -> list[dict[str, Any]]:
    """Return each setting with its names, its sample, and the value as `tickerplant config` shows it."""
    from tickerplant.app.describe import rows
    from tickerplant.app.settings import load

    found = []
    for row in rows(load({"data": "/nowhere"})):
        os.environ[row.environment] = SAMPLES[row.name]
        shown = next(one.value for one in rows(load()) if one.name == row.name)
        del os.environ[row.environment]
        assert shown != row.default, row.name
        found.append({"name": row.name, "environment": row.environment, "sample": SAMPLES[row.name], "shown": shown})
    return found


def commands() -> dict[str, Any]:
    """Return the options and arguments of each command."""
    import typer

    from tickerplant.app.cli import app

    found: dict[str, Any] = {}

    def walk(command: Any, path: str) -> None:
        found[path] = {
            "options": sorted(
                o for p in command.params if p.param_type_name == "option" for o in (*p.opts, *p.secondary_opts)
            ),
            "arguments": [p.name for p in command.params if p.param_type_name == "argument"],
        }
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


def metrics() -> dict[str, list[str]]:
    """Return the labels of each metric."""
    from tickerplant.api.metrics import CATALOGUE as API
    from tickerplant.app.metrics import CATALOGUE as PLANT

    return {metric.name: list(metric.labels) for metric in (*API, *PLANT)}


PLUGIN_MODULES = {
    "tickerplant.market_data.providers.port": (
        "ACTIONS DAILY ENTRY_POINTS INTRADAY KINDS STREAM kind_of Quota BarsOffer Offer BarsRequest Credits BarsAnswer "
        "ActionsAnswer Connected Received Lost Refused StreamEvent Said TickStream ProviderContext Provider"
    ),
    "tickerplant.market_data.clients.errors": (
        "VendorError QuotaSpent Burst BadKey NotEntitled UnknownSymbol NoData BadRequest VendorDown Malformed"
    ),
    "tickerplant.market_data.feed": "DeadRow",
    "tickerplant.analytics": "compute",
    "tickerplant.analytics.indicator.declaration": "Count Indicator Parameter Place Run period plain",
    "tickerplant.analytics.indicator.window": "At Windowed",
    "tickerplant.analytics.indicator.recursive": "Average Past Recursion Recursive",
    "tickerplant.analytics.indicator.smoothing": (
        "Exponential Smoothing Sum Wilder WilderHeld WilderSum exponential wilder"
    ),
    "tickerplant.core.times": (
        "MILLISECOND_US SECOND_US MINUTE_US HOUR_US DAY_US WEEK_US NEVER_US FOREVER_US TIMESTAMP Int64Array "
        "Float64Array BoolArray to_us from_us iso times_of timestamps"
    ),
    "tickerplant.core.errors": "BadInput UnknownIndicator TickerplantError ConfigError",
}
"""Names imported by the pages on vendors, indicators and the library, and other names of the same modules."""


def plugins() -> dict[str, Any]:
    """Return the public members and the parameters of each name that plug-ins may use."""
    return {
        module: {name: described(getattr(importlib.import_module(module), name)) for name in names.split()}
        for module, names in PLUGIN_MODULES.items()
    }


def described(value: Any) -> dict[str, Any]:
    """Return the public interface of a name: parameters, and members of a class with their parameters."""
    found: dict[str, Any] = {}
    if callable(value) and not (isinstance(value, type) and getattr(value, "_is_protocol", False)):
        with contextlib.suppress(TypeError, ValueError):
            found["parameters"] = list(inspect.signature(value).parameters)
    if isinstance(value, type):
        members = {name for name in dir(value) if not name.startswith("_") and name not in dir(BaseException)}
        members |= {name for kind in value.__mro__ for name in vars(kind).get("__annotations__", {}) if name[0] != "_"}
        found["members"] = {
            name: list(inspect.signature(getattr(value, name)).parameters)
            if inspect.isfunction(getattr(value, name, 0))
            else None
            for name in sorted(members)
        }
    return found


if __name__ == "__main__":
    made = {"settings": settings(), "commands": commands(), "metrics": metrics(), "plugins": plugins()}
    Path(sys.argv[1]).write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
