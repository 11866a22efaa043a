"""The groups of the settings: API, monitoring, alerts, vendors, sandbox, testing, rules."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.interval import parse
from tickerplant.core.rules import DEFAULT_RULES, FX_CALENDARS, Rules
from tickerplant.core.schedules import calendar_version
from tickerplant.core.sources import SourceOrder
from tickerplant.core.web_address import check_host, check_network, check_origin


def comma_list(value: Any) -> Any:
    """Split a text such as `AAPL, MSFT`, as in an environment variable, into a list; return other values unchanged."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_list)]


def _checked(check: Callable[[str], str], texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts in canonical form. Raises ValueError, which pydantic reports with the setting's name."""
    try:
        return tuple(map(check, texts))
    except BadInput as error:
        raise ValueError(str(error)) from None


class SettingsGroup(BaseModel):
    """An immutable group of settings. An unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiSettings(SettingsGroup):
    """Settings of REST and WebSocket."""

    host: str = Field(
        default="127.0.0.1", description="Address that the API listens on; `0.0.0.0`: all addresses of the machine."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the API and of the dashboard; 0: a free port.")
    key: SecretStr | None = Field(
        default=None,
        description="Key for REST, the stream and the metrics; unset: every client that reaches the port has access.",
    )
    max_connections: int = Field(
        default=2_000,
        ge=16,
        le=60_000,
        description="Maximum open connections of HTTP and WebSocket clients. 256 file descriptors of the process's "
        "limit always remain for the plant itself.",
    )
    hosts: Names = Field(
        default=(),
        description="Host names that a plant without a key accepts in `Host`, in addition to localhost and the "
        "connection's address. Add the names that other machines and proxies use.",
    )
    origins: Names = Field(
        default=(),
        description="Origins of pages that may open the stream and send writing requests, in addition to the "
        "dashboard, such as `https://charts.example.com`.",
    )

    proxies: Names = Field(
        default=(),
        description="Addresses or networks of reverse proxies, such as `127.0.0.1` or `10.0.0.0/8`. Only their header "
        "`X-Forwarded-For` names the client whose requests are limited.",
    )

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(check_host, hosts)

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(check_origin, origins)

    @field_validator("proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        return _checked(check_network, proxies)


class MonitoringSettings(SettingsGroup):
    """Settings of the server with the metrics and probes of one process."""

    host: str = Field(
        default="127.0.0.1",
        description="Address that the metrics and probes of each process listen on; they need no key.",
    )
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of `/metrics`, `/health/live` and `/health/ready` of each process, also of a service without "
        "an API; 0: a free port; unset: none ([description](operations.md#metrics-of-each-process)).",
    )


class AlertSettings(SettingsGroup):
    """Settings of alert rules and their webhooks."""

    max_rules: int = Field(
        default=1_000, ge=0, le=100_000, description="Maximum number of alert rules. A rule needs up to 1 MB of memory."
    )
    private_webhooks: bool = Field(
        default=True,
        description="Allow webhooks to addresses that are not public: this machine, the local network.",
    )
    webhook_timeout_s: float = Field(
        default=10.0, ge=0.1, le=120, description="Maximum time in seconds for a receiver to answer a webhook."
    )
    webhook_retry_hours: float = Field(
        default=24.0, ge=0, le=720, description="Maximum time in hours for which a failed webhook is retried."
    )


def _quota_table(value: Any) -> Any:
    """Parse `twelvedata=610/minute, twelvedata=5000/day`, or a JSON table, into a table of lists."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"the quotas are not valid JSON: {error}; write a JSON table, or twelvedata=610/minute"
            ) from None
    if isinstance(value, str):
        table: dict[str, list[str]] = {}
        for entry in comma_list(value):
            vendor, _, quota = entry.partition("=")
            table.setdefault(vendor.strip(), []).append(quota.strip())
        return table
    if isinstance(value, dict):
        return {name: comma_list(quotas) for name, quotas in value.items()}
    return value


Quotas = Annotated[dict[str, tuple[str, ...]], NoDecode, BeforeValidator(_quota_table)]

NO_VENDOR = "none"
"""Value of an order of vendors that contains no vendor."""


def by_action_cost(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sort vendors of splits and dividends by the cost of a request, cheapest first.

    Costs for one symbol: one request of Yahoo, 2 of Alpha Vantage's 25 requests per day, 40 of Twelve Data's 800
    credits per day.
    """
    cost = {"yahoo": 0, "alphavantage": 2, "twelvedata": 40}
    return tuple(sorted(names, key=lambda name: cost.get(name, 1)))


def _cleaned_key(key: SecretStr) -> SecretStr:
    """Return a vendor's key without surrounding blanks, which files and shells often add."""
    text = key.get_secret_value().strip()
    if not all("!" <= letter <= "~" for letter in text):
        raise ValueError(
            "a key may contain only visible ASCII characters, but this key contains other characters, such as a "
            "blank, a line end or a typographic quote; copy it from the vendor's page again"
        )
    return SecretStr(text)


class VendorSettings(SettingsGroup):
    """Market data vendors: keys, which vendor serves which kind of data, and quotas."""

    twelve_data_key: SecretStr | None = Field(default=None, description="Key of Twelve Data (REST and WebSocket).")
    alpha_vantage_key: SecretStr | None = Field(default=None, description="Key of Alpha Vantage.")
    keys: dict[str, SecretStr] = Field(
        default={}, description="Keys of other vendors by name: `TICKERPLANT_VENDORS__KEYS__ACME=…`."
    )
    stream: Names = Field(
        default=(), description="Vendors for live prints, best first; unset: vendors with a key; `none`: no vendor."
    )
    intraday: Names = Field(
        default=(),
        description="Vendors for bars below a day, best first; unset: vendors with a key, then `yahoo` if any vendor "
        "has a key; `none`: no vendor.",
    )
    daily: Names = Field(
        default=(),
        description="Vendors for daily bars, best first; unset: vendors with a key, then `yahoo` if any vendor has a "
        "key; `none`: no vendor.",
    )
    actions: Names = Field(
        default=(),
        description="Vendors for splits and dividends, best first; unset: vendors with a key, and `yahoo` if any "
        "vendor has a key, cheapest request first; `none`: no vendor.",
    )
    quotas: Quotas = Field(
        default={},
        description="Quotas of vendors, in place of their free plans: `twelvedata=610/minute, acme=5000/day`; `NAME=`: "
        "no limit.",
    )
    gap_fill_reserve: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of every quota, 0 to 1, that is reserved for filling gaps of live feeds.",
    )
    options: dict[str, dict[str, str]] = Field(
        default={},
        repr=False,  # an option may be a secret
        description="Options of each vendor, as its documentation defines; `url` and `stream_url` set its addresses.",
    )

    @field_validator("stream", "intraday", "daily", "actions")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if NO_VENDOR in names and len(names) > 1:
            raise ValueError(f"{NO_VENDOR!r} cannot be combined with vendors; remove one or the other")
        return tuple(dict.fromkeys(name.lower() for name in names))

    @field_validator("quotas")
    @classmethod
    def _are_quotas(cls, table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        from tickerplant.market_data.vendors.port import Quota

        cleaned = {name: tuple(quota for quota in quotas if quota) for name, quotas in table.items()}
        for name, quotas in cleaned.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(
                    f"{name!r} is not a vendor's name; write VENDOR=CREDITS/minute, as in twelvedata=610/minute"
                )
            for quota in quotas:
                Quota.parse(quota)
        return cleaned

    @field_validator("twelve_data_key", "alpha_vantage_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        return None if key is None else _cleaned_key(key)

    @field_validator("keys")
    @classmethod
    def _are_keys(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        return {name: _cleaned_key(key) for name, key in keys.items()}

    def key(self, name: str) -> str:
        """Return a vendor's key, or "" if there is none."""
        own = {"twelvedata": self.twelve_data_key, "alphavantage": self.alpha_vantage_key}
        secret = own.get(name) or self.keys.get(name)
        return secret.get_secret_value() if secret is not None else ""

    def with_keys(self) -> tuple[str, ...]:
        """Return the vendors that have a key, best first."""
        known = ("twelvedata", "alphavantage", *sorted(self.keys))
        return tuple(name for name in dict.fromkeys(known) if self.key(name))

    def order(self, kind: str) -> tuple[str, ...]:
        """Return the vendors of a kind of data (`stream`, `intraday`, `daily`, `actions`), best first.

        Yahoo needs no key. By default it is used if another vendor has a key, except for `stream`.
        """
        named: tuple[str, ...] = getattr(self, kind)
        if named:
            return () if named == (NO_VENDOR,) else named
        keyed = self.with_keys()
        order = (*keyed, "yahoo") if keyed and kind != "stream" and "yahoo" not in keyed else keyed
        return by_action_cost(order) if kind == "actions" else order

    def any_key(self) -> bool:
        """Return True if a vendor other than the sandbox is configured: it has a key, or an order contains it."""
        named = (*self.stream, *self.intraday, *self.daily, *self.actions)
        return bool(self.with_keys()) or any(name not in (NO_VENDOR, "sandbox") for name in named)


class SandboxSettings(SettingsGroup):
    """The sandbox vendor: a local server with simulated prices that serves the vendors' protocols."""

    enabled: bool | None = Field(
        default=None, description="Start the sandbox vendor with `up`; unset: only if no other vendor is configured."
    )
    rate: float = Field(
        default=50.0,
        gt=0,
        le=1_000_000,
        description="Average trades per second of all symbols of the sandbox, while markets are open.",
    )
    seed: int = Field(default=7, description="Seed of the simulated prices: the same seed gives the same prices.")
    port: int = Field(default=0, ge=0, le=65535, description="Port that the sandbox listens on; 0: a free port.")
    url: str = Field(default="", description="Address of a running sandbox; unset: `up` starts a sandbox.")
    vendors: Names = Field(
        default=("sandbox",),
        description="Vendors that the sandbox replaces, best first: `sandbox`, or vendors whose protocols the sandbox "
        "serves, such as `twelvedata` or `yahoo`.",
    )
    sessions: Literal["always", "us"] = Field(
        default="always",
        description="Trading hours of the sandbox's stocks: `always` (round the clock), or `us` (New York's sessions).",
    )
    start: str = Field(
        default="", description="Initial time of the sandbox's clock, ISO 8601; unset: the machine's time."
    )
    speed: float = Field(
        default=1.0, ge=0.01, le=10_000, description="Speed of the sandbox's clock as a multiple of real time."
    )
    free_plans: bool = Field(default=False, description="Apply the quotas of the vendors' free plans to the sandbox.")
    fault_script: Names = Field(
        default=(),
        description="Faults to inject, each as `SECONDS FAULT`, such as `60 do=mute&seconds=30`; see `sandbox.md`.",
    )
    fault_seed: int | None = Field(
        default=None, description="Seed of random faults, about 100 an hour; unset: no random faults."
    )

    @field_validator("start")
    @classmethod
    def _time(cls, value: str) -> str:
        if value:
            from tickerplant.core.time_column import parse_instant

            try:
                parse_instant(value, dt.UTC)
            except (BadInput, OverflowError) as error:
                raise ValueError(str(error)) from None
        return value


class TestingSettings(SettingsGroup):
    """Settings of the project's own tests. docs/settings.md does not list them."""

    __test__ = False  # pytest collects classes of this name otherwise

    crash_at: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.\-]+:[0-9.]+$",
        description="`point:count` kills the process when it reaches the point for the count-th time; `random:seconds` "
        "kills it at a random instant within that time.",
    )


class RulesSettings(SettingsGroup):
    """Settings that change outputs. A change is appended to the log and applies to the records after it."""

    allowed_lateness_ms: int = Field(
        default=DEFAULT_RULES.allowed_lateness_us // 1000,
        ge=0,
        le=86_400_000,
        description="Time for which a bar stays open for late ticks, in milliseconds of the feed's time.",
    )
    sources: Names = Field(
        default=DEFAULT_RULES.sources,
        description=(
            "Order of sources, best first, if several have equally complete values of a bar: "
            "`SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]]`; each part is a shell pattern."
        ),
    )
    source_priority_wait_ms: int = Field(
        default=DEFAULT_RULES.source_priority_wait_us // 1000,
        ge=0,
        le=600_000,
        description="Time for which a bar waits for a live feed of a better source, in milliseconds.",
    )
    calendars: dict[str, str] = Field(
        default=dict(FX_CALENDARS),
        description=(
            "Calendar of each pattern of symbols: `XNYS`, `XLON`, …, `24/7`, or `FX` for foreign exchange; the first "
            "match applies. `{currency}` is a code of ISO 4217. A log keeps its calendars until this setting "
            "is set."
        ),
    )
    extended_hours: bool = Field(
        default=DEFAULT_RULES.extended_hours, description="Include trades outside regular hours in daily bars."
    )
    revision_window_sessions: int = Field(
        default=DEFAULT_RULES.revision_window_sessions,
        ge=1,
        le=60,
        description="Number of sessions in which late ticks still revise closed bars.",
    )
    activity_bars: dict[str, tuple[str, ...]] = Field(
        default=dict(DEFAULT_RULES.activity_bars),
        description="Activity intervals for each pattern of symbols: `100t` (trades), `10000v` (volume), `1000000d` "
        "(turnover).",
    )
    indicators: dict[str, tuple[str, ...]] = Field(
        default={interval: tuple(names) for interval, names in DEFAULT_RULES.indicators.items()},
        description="Indicators by bar interval, as `NAME(parameter,…)`.",
    )
    forming_indicators: Names = Field(
        default=DEFAULT_RULES.forming_indicators,
        description="Indicators that are also computed on the forming bar.",
    )

    @field_validator("sources")
    @classmethod
    def _can_be_an_order(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        try:
            SourceOrder(entries)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return entries

    @field_validator("activity_bars")
    @classmethod
    def _are_bars_by_activity(cls, table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in (name for names in table.values() for name in names):
            try:
                good = parse(name).is_activity
            except BadInput:
                good = False
            if not good:
                raise ValueError(f"{name!r} is not an activity interval; write 100t, 10000v or 1000000d, for example")
        return table

    @field_validator("indicators")
    @classmethod
    def _are_indicators(cls, table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for interval, texts in table.items():
            try:
                parse(interval)
                _check_indicators(texts)
            except BadInput as error:
                raise ValueError(f"{interval}: {error}") from error
        return table

    @field_validator("forming_indicators")
    @classmethod
    def _are_forming_indicators(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        try:
            _check_indicators(texts)
        except BadInput as error:
            raise ValueError(str(error)) from error
        return texts

    def rules(self) -> Rules:
        """Return the rules in the form of the log's records, with the version of the calendars' data."""
        return Rules(
            allowed_lateness_us=self.allowed_lateness_ms * 1000,
            sources=self.sources,
            source_priority_wait_us=self.source_priority_wait_ms * 1000,
            calendars=self.calendars,
            calendar_version=calendar_version(),
            extended_hours=self.extended_hours,
            revision_window_sessions=self.revision_window_sessions,
            activity_bars=self.activity_bars,
            indicators=self.indicators,
            forming_indicators=self.forming_indicators,
        )


def _check_indicators(texts: tuple[str, ...]) -> None:
    """Raise BadInput for an unknown indicator. The message includes the errors of plug-ins that failed to load."""
    from tickerplant.analytics import plugins
    from tickerplant.analytics.indicator import parse as parse_indicator

    broken = plugins.load()
    for text in texts:
        try:
            parse_indicator(text)
        except BadInput as error:
            raise BadInput("; ".join([str(error), *map(str, broken)])) from error
