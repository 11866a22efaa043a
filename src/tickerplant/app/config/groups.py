"""The groups of the settings' tree: API, alerts, vendors, the sandbox, the rules of bars."""

from __future__ import annotations

import datetime as dt
import json
import re
from importlib import metadata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from tickerplant.core.errors import BadInput, ConfigError
from tickerplant.core.interval import parse
from tickerplant.core.rules import DEFAULT_RULES, Rules
from tickerplant.core.sources import SourceOrder


def comma_list(value: Any) -> Any:
    """Take `AAPL, MSFT` for a list, as people write it in an environment variable."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(comma_list)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ApiSettings(_Part):
    """REST and WebSocket."""

    host: str = Field(
        default="127.0.0.1", description="Address that the API listens on; `0.0.0.0` for all of the machine's."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port of the API and of the dashboard.")
    key: SecretStr | None = Field(
        default=None,
        description="Key that every request must bring; without one the API is open to whoever reaches the port.",
    )


class AlertSettings(_Part):
    """What alerts that fire are posted with."""

    private_webhooks: bool = Field(
        default=True,
        description="Whether webhooks may go to addresses that are not public: this machine, the local network.",
    )
    webhook_timeout_s: float = Field(
        default=10.0, ge=0.1, le=120, description="How long a receiver has to answer a webhook, in seconds."
    )
    webhook_retry_hours: float = Field(
        default=24.0, ge=0, le=720, description="For how long a webhook that is not taken is tried again, in hours."
    )


def _quota_table(value: Any) -> Any:
    """Take `twelvedata=610/minute, twelvedata=5000/day`, or a table as JSON, for a table of lists."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"the quotas cannot be read as JSON: {error}") from None
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

NOBODY = "none"
"""What an order of vendors says for nobody at all."""


def dearest_last(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return vendors of splits and dividends in the order in which they are asked: who takes most credits last.

    Yahoo gives them for one request, Alpha Vantage for two of its 25 a day, Twelve Data for 40 of its 800.
    """
    cost = {"yahoo": 0, "alphavantage": 2, "twelvedata": 40}
    return tuple(sorted(names, key=lambda name: cost.get(name, 1)))


def _cleaned_key(key: SecretStr) -> SecretStr:
    """Return a vendor's key without the blanks around it, which a file or a shell easily adds."""
    text = key.get_secret_value().strip()
    if not all("!" <= letter <= "~" for letter in text):
        raise ValueError(
            "a key is letters, digits and signs of ASCII alone, and here are others (a blank, a line's end, a quote "
            "that an editor made round?); copy it from the vendor's page again"
        )
    return SecretStr(text)


class VendorSettings(_Part):
    """Market data vendors: their keys, whom to ask for what, and what they allow."""

    twelve_data_key: SecretStr | None = Field(default=None, description="Key of Twelve Data (REST and WebSocket).")
    alpha_vantage_key: SecretStr | None = Field(default=None, description="Key of Alpha Vantage.")
    keys: dict[str, SecretStr] = Field(
        default={}, description="Keys of other vendors by name: `TICKERPLANT_VENDORS__KEYS__ACME=…`."
    )
    stream: Names = Field(
        default=(), description="Vendors for live prints, best first; unset: those with a key; `none` for nobody."
    )
    intraday: Names = Field(
        default=(),
        description="Vendors for bars below a day, best first; unset: those with a key, then `yahoo`; `none` for "
        "nobody.",
    )
    daily: Names = Field(
        default=(),
        description="Vendors for daily bars, best first; unset: those with a key, then `yahoo`; `none` for nobody.",
    )
    actions: Names = Field(
        default=(),
        description="Vendors for splits and dividends, best first; unset: those with a key, then `yahoo`; `none` for "
        "nobody.",
    )
    quotas: Quotas = Field(
        default={},
        description="What a vendor allows, where that is not its free plan: `twelvedata=610/minute, acme=5000/day`; "
        "`NAME=` for no limit.",
    )
    gap_fill_reserve: float = Field(
        default=0.25, ge=0, le=1, description="The share of every quota that is kept for healing gaps, 0 to 1."
    )
    options: dict[str, dict[str, str]] = Field(
        default={},
        repr=False,  # there may be a secret among them
        description="Options of a vendor by name, as it documents them; `url` and `stream_url` ask there instead.",
    )

    @field_validator("stream", "intraday", "daily", "actions")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if NOBODY in names and len(names) > 1:
            raise ValueError(f"{NOBODY!r} stands alone")
        return tuple(dict.fromkeys(name.lower() for name in names))

    @field_validator("quotas")
    @classmethod
    def _are_quotas(cls, table: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        from tickerplant.market_data.vendors.port import Quota

        cleaned = {name: tuple(quota for quota in quotas if quota) for name, quotas in table.items()}
        for name, quotas in cleaned.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                raise ValueError(
                    f"{name!r} is no vendor's name; write VENDOR=CREDITS/minute, as in twelvedata=610/minute"
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

        Yahoo needs no key, but is asked only by who has one of another vendor, or names it.
        """
        named: tuple[str, ...] = getattr(self, kind)
        if named:
            return () if named == (NOBODY,) else named
        keyed = self.with_keys()
        order = (*keyed, "yahoo") if keyed and kind != "stream" and "yahoo" not in keyed else keyed
        return dearest_last(order) if kind == "actions" else order

    def any_key(self) -> bool:
        """Whether there is a vendor that could be asked: one that has a key, or is named in an order."""
        named = (*self.stream, *self.intraday, *self.daily, *self.actions)
        return bool(self.with_keys()) or any(name not in (NOBODY, "sandbox") for name in named)


class SandboxSettings(_Part):
    """The vendor that needs no key: a local server with made-up prices that speaks the vendors' protocols."""

    enabled: bool | None = Field(
        default=None, description="Whether `up` starts the sandbox vendor; unset: when no vendor's key is set."
    )
    rate: float = Field(
        default=50.0,
        gt=0,
        le=1_000_000,
        description="Trades a second that the sandbox makes up, all symbols, on the average of a day.",
    )
    seed: int = Field(default=7, description="Seed of the made-up prices: the same seed gives the same prices.")
    port: int = Field(default=0, ge=0, le=65535, description="Port that the sandbox listens on; 0 takes a free one.")
    url: str = Field(
        default="", description="Address of a sandbox that runs already; unset: `up` starts one of its own."
    )
    vendors: Names = Field(
        default=("sandbox",),
        description="As which vendors the sandbox is asked, best first: `sandbox`, or .",
    )
    sessions: Literal["always", "us"] = Field(
        default="always", description="When the sandbox's stocks trade: round the clock, or in New York's sessions."
    )
    start: str = Field(
        default="", description="What the sandbox's clock says at first, ISO 8601; unset: the machine's time."
    )
    speed: float = Field(
        default=1.0, ge=0.01, le=10_000, description="How many times as fast as the machine's the sandbox's clock runs."
    )
    free_plans: bool = Field(
        default=False, description="Whether the sandbox has the quotas that the vendors give for nothing."
    )
    fault_script: Names = Field(
        default=(), description="Troubles by plan: `SECONDS ORDER`, as in `60 do=mute&seconds=30`; see `sandbox.md`."
    )
    fault_seed: int | None = Field(
        default=None, description="Seed of troubles that come by chance every few minutes; unset: none."
    )

    @field_validator("start")
    @classmethod
    def _time(cls, value: str) -> str:
        if value:
            dt.datetime.fromisoformat(value)
        return value


class TestingSettings(_Part):
    """For the project's own tests. docs/settings.md does not list these."""

    __test__ = False  # pytest collects classes of this name otherwise

    crash_at: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_.\-]+:[0-9.]+$",
        description="`point:count` kills the process when it reaches the point for the count-th time; `random:seconds` "
        "kills it at a random instant within that time.",
    )


class RulesSettings(_Part):
    """All that changes outputs. A change is written into the log and holds from there on."""

    allowed_lateness_ms: int = Field(
        default=DEFAULT_RULES.allowed_lateness_us // 1000,
        ge=0,
        le=86_400_000,
        description="How long a bar stays open for late ticks, in milliseconds of the feed's own time.",
    )
    sources: Names = Field(
        default=DEFAULT_RULES.sources,
        description=(
            "Order of sources, best first, where several know a bar equally completely: "
            "`SOURCE[:ticks|:bars][@SYMBOL[ INTERVAL]]`, each a shell pattern."
        ),
    )
    source_priority_wait_ms: int = Field(
        default=DEFAULT_RULES.source_priority_wait_us // 1000,
        ge=0,
        le=600_000,
        description="How long a bar waits for a live feed of a source that stands before its own, in milliseconds.",
    )
    calendars: dict[str, str] = Field(
        default=dict(DEFAULT_RULES.calendars),
        description="Calendar of each pattern of symbols: `XNYS`, `XLON`, … or `24/7`; the first that fits counts.",
    )
    extended_hours: bool = Field(
        default=DEFAULT_RULES.extended_hours, description="Whether daily bars take trades outside regular hours too."
    )
    revision_window_sessions: int = Field(
        default=DEFAULT_RULES.revision_window_sessions,
        ge=1,
        le=60,
        description="For how many sessions finished bars are remembered, so that late ticks revise them.",
    )
    activity_bars: dict[str, tuple[str, ...]] = Field(
        default=dict(DEFAULT_RULES.activity_bars),
        description="Bars by trades, volume or turnover for each pattern of symbols: `100t`, `10000v`, `1000000d`.",
    )
    indicators: dict[str, tuple[str, ...]] = Field(
        default={interval: tuple(names) for interval, names in DEFAULT_RULES.indicators.items()},
        description="Indicators by bar interval, written as `NAME(parameter,…)`.",
    )
    forming_indicators: Names = Field(
        default=DEFAULT_RULES.forming_indicators,
        description="Those of the indicators that are also computed on the bar that is still forming.",
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
                raise ValueError(f"{name!r} is no interval by activity, such as 100t, 10000v or 1000000d")
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
        """Return the rules as the log carries them, with the version of the calendars' data."""
        return Rules(
            allowed_lateness_us=self.allowed_lateness_ms * 1000,
            sources=self.sources,
            source_priority_wait_us=self.source_priority_wait_ms * 1000,
            calendars=self.calendars,
            calendar_version=metadata.version("exchange_calendars"),
            extended_hours=self.extended_hours,
            revision_window_sessions=self.revision_window_sessions,
            activity_bars=self.activity_bars,
            indicators=self.indicators,
            forming_indicators=self.forming_indicators,
        )


def _check_indicators(texts: tuple[str, ...]) -> None:
    """Raise BadInput for a text that names no declared indicator, of ours or of a plug-in; say which of those broke."""
    from tickerplant.analytics import plugins
    from tickerplant.analytics.indicator import parse as parse_indicator

    broken = plugins.load()
    for text in texts:
        try:
            parse_indicator(text)
        except BadInput as error:
            raise BadInput("; ".join([str(error), *map(str, broken)])) from error
