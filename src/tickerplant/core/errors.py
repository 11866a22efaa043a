"""Every error that a user or an operator of the plant may meet, and what each asks of him."""

from __future__ import annotations


class TickerplantError(Exception):
    """Base of all errors that the plant raises on purpose.

    The message is one sentence that says what is wrong and, where anything can be done, what to do.
    """


class ConfigError(TickerplantError):
    """A setting is missing, contradicts another, or cannot be read."""


class BadInput(TickerplantError):
    """Input from a user (a file, a parameter) cannot be understood.

    `line` is the 1-based line of a text file (the header is line 1), or None where there are no lines.
    """

    def __init__(self, message: str, *, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.line = line


class UnknownIndicator(BadInput):
    """There is no indicator of that name; the message says which are like it."""


class UnreadableRecord(TickerplantError):
    """The bytes of a log record are not a record of ours, or one of a newer version.

    Whoever reads the log puts such a record into `market.deadletter` with this reason and goes on.
    """


class LogError(TickerplantError):
    """The event log refused or failed. The transaction that was open has left nothing."""


class LogUnavailable(LogError):
    """The log cannot be reached now (a broker is down, a file is locked); trying again may help."""


class Fenced(LogError):
    """A newer owner has taken this writer's name or this reader's partitions: stop and start again."""


class UnknownTopic(LogError):
    """The topic does not exist; `tickerplant create-topics` makes it."""


class RecordTooLarge(LogError):
    """One record is larger than the log takes; split the batch."""


class StoreError(TickerplantError):
    """The database refused or failed."""


class StoreUnavailable(StoreError):
    """The database cannot be reached now; trying again may help."""


class PositionConflict(StoreError):
    """Somebody else has applied these positions: this owner must roll back and stop (a zombie is harmless)."""


class StoreMismatch(StoreError):
    """The store belongs to another log, or is ahead of its log; `tickerplant adopt` begins a new generation."""


class MigrationError(StoreError):
    """The database's schema is not one that these migrations can continue."""


class FolderHeld(TickerplantError):
    """The data folder is in use by another plant."""


class NoPlant(TickerplantError):
    """There is no plant where a command was to look at one; nothing was made there."""


class SnapshotRefused(TickerplantError):
    """A snapshot has a format that this code does not read: run the version that wrote it, or start anew."""
