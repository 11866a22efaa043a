"""All settings of the plant as one typed tree. Only this module reads them.

Precedence, highest first: a flag of the command line, the environment, the TOML file, the default. Variables are named
`TICKERPLANT_…`, with `__` for a dot. The file is `--config`, or `tickerplant.toml` in the data folder. Every setting
has a description. `tickerplant config` prints all settings with their values and origins.
"""

from __future__ import annotations

import os
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tickerplant.app.config.groups import (
    AlertSettings,
    ApiSettings,
    MonitoringSettings,
    Names,
    RulesSettings,
    SandboxSettings,
    TestingSettings,
    VendorSettings,
)
from tickerplant.app.config.renamed import ENV_PREFIX, RENAMED, FormerName, rename_keys, rename_variables, variable
from tickerplant.app.config.store_access import GROUP, StoreAccessSettings, shown_name, split_table, split_variables
from tickerplant.app.config.topics import TopicSettings
from tickerplant.core.digits import is_digits
from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.symbols import check_symbol

FILE_NAME = "tickerplant.toml"
EMBEDDED = "embedded:"
HISTORY_INTERVALS = ("1m", "5m", "1d")
"""The time intervals whose bars are stored."""


def child_environment() -> dict[str, str]:
    """Return the environment for a child process: settings under their present names, and no secret.

    The children run the embedded store or the sandbox. They need no setting of the API, of vendors, of webhooks, of
    Kafka or of another database, and no `testing.crash_at`.
    """
    names = {variable(former): variable(present) for former, present in RENAMED.items()}
    named = {names.get(name, name): value for name, value in os.environ.items()}
    return {name: value for name, value in named.items() if not _is_private(name.upper(), value)}


def _is_private(name: str, value: str) -> bool:
    groups = tuple(f"{ENV_PREFIX}{group}__" for group in ("API", "VENDORS", "ALERTS", "KAFKA"))
    single = {variable(dotted) for dotted in ("testing.crash_at", "fault", "kafka", "log", "api", "vendors", "alerts")}
    other_store = name == variable("store") and not value.startswith("embedded")
    return name.startswith(groups) or name in single or other_store or name == variable("store.reader_password")


def access_variables(settings: Settings) -> dict[str, str]:
    """Return variables that pass settings of the embedded store to a child process, also if a file sets them."""
    access = settings.store_access
    given = {
        "store.listen": access.listen,
        "store.socket": str(access.socket or ""),
        "store.binaries": str(access.binaries or ""),
    }
    return {variable(name): value for name, value in given.items() if value}


def default_folder() -> Path:
    """Return the default data folder: `tickerplant` below XDG_DATA_HOME or ~/.local/share."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "tickerplant"


class Settings(BaseSettings):
    """The tree of all settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    data: Path = Field(
        default_factory=default_folder,
        description="Data folder: contains the embedded log and database, locks, and `tickerplant.toml`.",
    )
    log: str = Field(
        default=EMBEDDED,
        description="The event log: `embedded:` (a file in the data folder), `sqlite:///path` or "
        "`kafka://host:port[,host:port][?prefix=NAME&replication=N]` ([description](kafka.md)).",
    )
    store: SecretStr = Field(
        default=SecretStr(EMBEDDED),
        description="The database: `embedded:` (PostgreSQL in the data folder) or `postgresql://user:password@host/name`.",
    )
    store_access: StoreAccessSettings = Field(
        default_factory=StoreAccessSettings, description="Access to the database, shown as `store.…`."
    )
    direct_compress: bool = Field(
        default=True,
        description="Write ticks as compressed rows on TimescaleDB, for symbols with 100 or more ticks in one "
        "transaction; `false`: never.",
    )
    partitions: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Partitions of each topic; takes effect when the topics are created, and cannot change afterwards. "
        "Unset: 1 if the log is a file and `symbols` has at most 1,000 symbols, otherwise 4. `replay` creates 4.",
    )
    gather_ms: int = Field(
        default=100,
        ge=0,
        le=1_000,
        description="Maximum time in milliseconds for which a live feed gathers ticks into one record. A feed "
        "appends earlier when it has 64 messages of the vendor. The service `persistence` pauses for the same time "
        "after it has read fewer than 32 records. 0: no waiting, with more CPU and disk per tick.",
    )
    store_gather_ms: int = Field(
        default=1_000,
        ge=0,
        le=10_000,
        description="Maximum time in milliseconds for which `persistence` gathers ticks, and bars and values of a live "
        "feed, into one transaction. `persistence` waits only while records arrive slowly. The end of an interval, "
        "files and the backfill end the wait. 0, or `gather_ms` of 0: no additional wait.",
    )
    min_free_mb: int = Field(
        default=256,
        ge=0,
        le=1_000_000,
        description="Minimum free space of the disk with the embedded log or database, in MiB. If less is free, "
        "feeds, the backfill and `replay` take in no data; they continue at 1.25 times this space. 0: the intake never "
        "stops.",
    )
    snapshot_interval_records: int = Field(
        default=2_000,
        ge=1,
        le=10_000_000,
        description="Maximum number of records of a partition between two snapshots of aggregation or analytics. A "
        "snapshot is also made when the records since the last one took half a second, unless snapshots would take "
        "more than 1% of the time. A restart after a kill processes the records since the snapshot again.",
    )
    instance: str = Field(
        default="0",
        pattern=r"^[A-Za-z0-9_.-]{1,32}$",
        description="Name of this process among the members of its service; keep the name unchanged across restarts.",
    )
    symbols: Names = Field(
        default=("AAPL", "MSFT", "GOOG", "AMZN", "NVDA", "TSLA", "META", "JPM", "SPY", "QQQ", "EUR/USD", "BTC/USD"),
        description="Symbols that the feeds deliver; separate them by commas in the environment.",
    )
    history: Names = Field(
        default=("1d:3650", "5m:max", "1m:max"),
        description="Depth of history to fetch, as `interval:days`, or `interval:max` for all history of the vendors; "
        "`none`: the backfill executes only users' orders, and fills no gaps.",
    )
    api: ApiSettings = Field(default_factory=ApiSettings, description="REST and WebSocket.")
    monitoring: MonitoringSettings = Field(
        default_factory=MonitoringSettings, description="Metrics and probes of each process."
    )
    alerts: AlertSettings = Field(default_factory=AlertSettings, description="Webhooks of alerts.")
    vendors: VendorSettings = Field(default_factory=VendorSettings, description="Market data vendors.")
    sandbox: SandboxSettings = Field(
        default_factory=SandboxSettings, description="The sandbox vendor, which needs no key."
    )
    rules: RulesSettings = Field(default_factory=RulesSettings, description="Settings that change outputs.")
    kafka: dict[str, str] = Field(
        default={},
        description="Properties of librdkafka, with `_` for dots: `TICKERPLANT_KAFKA__SECURITY_PROTOCOL=SASL_SSL`.",
    )
    topics: TopicSettings = Field(default_factory=TopicSettings, description="Topics on Kafka.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Minimum level of log lines. If this is unset, commands that end by themselves use `warning`.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto",
        description="Format of log lines: `console`, `json`, or `auto` (`console` if stderr is a terminal).",
    )
    testing: TestingSettings = Field(default_factory=TestingSettings, description="For the project's own tests.")

    @field_validator("data")
    @classmethod
    def _whole_path(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("symbols")
    @classmethod
    def _known_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(check_symbol(symbol) for symbol in value))
        except BadInput as error:
            raise ValueError(str(error)) from error

    @field_validator("history")
    @classmethod
    def _depths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value == ("none",):
            return ()
        for entry in value:
            name, _, days = entry.partition(":")
            good = days == "max" or (is_digits(days) and len(days) < 6 and 1 <= int(days) <= 20_000)
            if name not in HISTORY_INTERVALS or not good:
                raise ValueError(
                    f"{entry!r} is not a depth of history; write interval:days or interval:max, as in 1d:365 or "
                    "1m:max, or none"
                )
        return value

    @field_validator("log")
    @classmethod
    def _log_url(cls, value: str) -> str:
        if not (value == EMBEDDED or value.startswith(("sqlite:///", "kafka://"))):
            raise ValueError(f"{value!r} is not a log; use embedded:, sqlite:///path or kafka://host:port")
        return value

    @field_validator("store")
    @classmethod
    def _store_url(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not (text == EMBEDDED or text.startswith(("postgresql://", "postgres://"))):
            raise ValueError("not a store; use embedded: or postgresql://user:password@host/name")
        return value

    @field_validator("kafka")
    @classmethod
    def _dotted(cls, value: dict[str, str]) -> dict[str, str]:
        return {name.lower().replace("_", "."): text for name, text in value.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the values that `load` has merged as the only source."""
        return (init_settings,)

    def command(self, name: str) -> str:
        """Return the text of a command on this data folder, such as `tickerplant up --data /srv/plant`.

        The text contains `--data` unless the folder is the default.
        """
        option = "" if self.data == default_folder() else f" --data {shlex.quote(str(self.data))}"
        return f"tickerplant {name}{option}"

    @property
    def new_partitions(self) -> int:
        """Return the count of partitions of new topics."""
        if self.partitions is not None:
            return self.partitions
        return 1 if self.embedded_log and len(self.symbols) <= FEW_SYMBOLS else MANY_PARTITIONS

    @property
    def embedded_log(self) -> bool:
        """Return True if the log is a file that the processes of this machine share."""
        return not self.log.startswith("kafka://")

    @property
    def embedded_store(self) -> bool:
        """Return True if the database is the embedded database in the data folder."""
        return self.store.get_secret_value() == EMBEDDED

    @property
    def wants_sandbox(self) -> bool:
        """Return True if `up` starts the sandbox vendor."""
        return not self.vendors.any_key() if self.sandbox.enabled is None else self.sandbox.enabled


FEW_SYMBOLS: Final = 1_000
"""Maximum count of symbols for which a new log in a file has one partition. One record then contains the ticks of all
symbols. A plant of 1,000 symbols with 100 ticks a second uses two thirds of the CPU that four partitions need."""
MANY_PARTITIONS: Final = 4
"""Default count of partitions of a log on brokers, of many symbols, or of files with unknown symbols."""


@dataclass(frozen=True)
class Loaded:
    """The settings, and the origin of each value by dotted name: `flag`, `environment`, or the file's path."""

    settings: Settings
    origins: Mapping[str, str]
    former_names: tuple[FormerName, ...] = ()
    """Settings that were given under a former name; commands warn about them."""

    def for_files(self) -> Loaded:
        """Return the settings for a command that loads a file.

        The file may have many symbols, so the default number of partitions is `MANY_PARTITIONS`.
        """
        settings = self.settings.model_copy(update={"partitions": self.settings.partitions or MANY_PARTITIONS})
        return replace(self, settings=settings)


def load(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> Loaded:
    """Return the settings from flags, environment and file. `flags` is the tree of the command-line options.

    Raises ConfigError with one sentence: the setting's name, its origin and the error.
    """
    flags = _copied(flags or {})
    split_table(flags)
    from_env, former_names = _environment()
    folder = Path(flags.get("data") or from_env.get("data") or default_folder()).expanduser()
    path = config or folder / FILE_NAME
    from_file = _file(path, must_exist=config is not None)
    split_table(from_file)
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, tree in ((str(path), from_file), ("environment", from_env), ("flag", flags)):
        former_names += rename_keys(tree, origin)
        _merge(merged, tree, origins, origin, "")
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise _explained(error, origins) from None
    return Loaded(settings, origins, tuple(former_names))


def _copied(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in tree.items()}


def _environment() -> tuple[dict[str, Any], list[FormerName]]:
    known = {name.split(".")[0].upper() for name in (*Settings.model_fields, *RENAMED)} - {GROUP.upper()}
    for name in os.environ:
        head = name.removeprefix(ENV_PREFIX).split("__")[0]
        if name.startswith(ENV_PREFIX) and head not in known and name != "TICKERPLANT_CONFIG":
            raise ConfigError(f"{name} in the environment is not a setting; `tickerplant config` lists all settings")
    try:
        source = EnvSettingsSource(Settings)
        variables, former_names = rename_variables(source.env_vars)
        split_variables(variables, ENV_PREFIX)
        source.env_vars = variables
        return dict(source()), former_names
    except ConfigError:
        raise
    except Exception as error:  # a SettingsError has only the field's name; its cause is JSON that cannot be parsed
        raise ConfigError(f"the environment cannot be read: {error}; correct the variable") from error


def _file(path: Path, *, must_exist: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise ConfigError(f"there is no settings file {path}; correct --config") from None
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error}; correct the file") from None


_WHOLE = {"rules.calendars", "rules.activity_bars", "rules.indicators"}
"""Tables with free keys that a flag, the environment or the file replaces as a whole. Other tables are merged by
entry."""


def _merge(into: dict[str, Any], tree: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str) -> None:
    for name, value in tree.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and dotted not in _WHOLE:
            below = into.setdefault(name, {})
            if isinstance(below, dict):
                _merge(below, value, origins, origin, f"{dotted}.")
                continue
        into[name] = value
        origins[dotted] = origin


def _explained(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    origin = next((origins[n] for n in (name, name.rsplit(".", 1)[0]) if n in origins), "default")
    name = shown_name(name)
    if first["type"] == "extra_forbidden":
        return ConfigError(f"{name} ({origin}) is not a setting; `tickerplant config` lists all settings")
    reason = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"setting {name} ({origin}): {reason[:1].lower() + reason[1:]}")
