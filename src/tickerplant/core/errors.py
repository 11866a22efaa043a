"""The errors that users and operators see, and the reaction that each requires."""

from __future__ import annotations

from typing import Final


class TickerplantError(Exception):
    """Base of all errors that Tickerplant raises deliberately.

    The message contains the fault and, if possible, the remedy.
    """


class ConfigError(TickerplantError):
    """A setting is missing, contradicts another setting, or is invalid."""


class MissingExtra(ConfigError):
    """A feature needs an extra of the package that is not installed. The message contains the command to install it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs {EXTRAS[extra]}, which is not installed: pip install 'tickerplant[{extra}]'")
        self.extra = extra


EXTRAS: Final = {
    "calendars": "exchange_calendars",
    "ccxt": "ccxt",
    "kafka": "confluent_kafka",
    "yahoo": "yfinance",
}
"""Module that each extra of the package installs, by the extra."""

MAX_MESSAGE_CHARS: Final = 2_000
"""Maximum characters of a message about input, which may quote the input."""


class BadInput(TickerplantError):
    """Input from a user (a file, a parameter) is invalid. A message longer than `MAX_MESSAGE_CHARS` is cut.

    `line` is the 1-based line of a text file (the header is line 1), or None for other input.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        if len(message) > MAX_MESSAGE_CHARS:
            message = f"{message[:MAX_MESSAGE_CHARS]}… ({len(message):,} characters)"
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class UnknownIndicator(BadInput):
    """No indicator has the requested name. The message lists similar names, if there are any."""


class UnreadableRecord(TickerplantError):
    """A log record is not a Tickerplant record, is of a newer version, or has invalid content.

    Aggregation and analytics append a dead letter with this reason and continue. Other readers skip the record.
    """


class LogError(TickerplantError):
    """The event log rejected a call or failed."""


class LogUnavailable(LogError):
    """The log is unavailable (a broker is down, a file is locked). A retry may succeed.

    If a commit raises this error, it is unknown whether the transaction was written: resume from the last commit.
    """


class Fenced(LogError):
    """A newer owner has this writer's name or this reader's partitions: stop and restart."""


class UnknownTopic(LogError):
    """The topic or its partition does not exist; `tickerplant create-topics` creates missing topics."""


class RecordTooLarge(LogError):
    """A record or transaction exceeds the log's maximum size; split the batch."""


class StoreError(TickerplantError):
    """The database rejected a call or failed."""


class StoreUnavailable(StoreError):
    """The database is unavailable. A retry may succeed."""


class StoreRefused(StoreError):
    """The database refuses the connection: the login, a certificate or the address. A retry fails without a change."""


class PositionConflict(StoreError):
    """Another process has applied these positions: roll back and stop."""


class StoreMismatch(StoreError):
    """The store belongs to another log, is ahead of its log, or is not empty. The message contains the remedy."""


class MigrationError(StoreError):
    """The database's schema does not fit the migrations of this code, or a table is missing."""


class FolderHeld(TickerplantError):
    """Another Tickerplant process uses the data folder, or writes the same backup."""


class NoPlant(TickerplantError):
    """The folder or address of a read-only command contains no Tickerplant data; nothing was created."""


class SnapshotRefused(TickerplantError):
    """A snapshot or a stored state of a feed or vendor cannot be read, or has an unsupported format.

    Run the version that wrote it, or start with empty state.
    """
