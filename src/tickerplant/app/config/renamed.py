"""Settings under their former names, which work for one more version with a warning. Pure.

Remove an entry of `RENAMED` one version after its setting was renamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from tickerplant.core.errors import ConfigError

RENAMED: Final = {
    "snapshot_records": "snapshot_interval_records",
    "alerts.webhook_hours": "alerts.webhook_retry_hours",
    "vendors.reserve": "vendors.gap_fill_reserve",
    "sandbox.script": "sandbox.fault_script",
    "sandbox.chaos": "sandbox.fault_seed",
    "rules.lateness_ms": "rules.allowed_lateness_ms",
    "rules.source_wait_ms": "rules.source_priority_wait_ms",
    "rules.memory_sessions": "rules.revision_window_sessions",
    "fault": "testing.crash_at",
}
"""Present dotted name of each former dotted name."""


ENV_PREFIX: Final = "TICKERPLANT_"


@dataclass(frozen=True)
class FormerName:
    """A setting that was given under its former name. Both names are dotted."""

    origin: str
    former: str
    present: str

    def spelled(self) -> tuple[str, str]:
        """Return both names as the origin spells them: variables, options, or dotted names in a file."""
        spell = {"environment": variable, "flag": _option}.get(self.origin, str)
        return spell(self.former), spell(self.present)


def rename_variables(variables: Mapping[str, str | None]) -> tuple[dict[str, str | None], list[FormerName]]:
    """Return the environment variables under their present names, and the former names that occurred.

    The names of `variables` are in lower case, as pydantic reads them. Raises ConfigError for a setting that is given
    under both names with different values.
    """
    result, found = dict(variables), []
    for former, present in RENAMED.items():
        old, new = variable(former).lower(), variable(present).lower()
        if old not in result:
            continue
        name = FormerName("environment", former, present)
        found.append(name)
        value = result.pop(old)
        _check_same(name, value, result.setdefault(new, value))
    return result, found


def rename_keys(tree: dict[str, Any], origin: str) -> list[FormerName]:
    """Move the values of a settings tree to the present names, in place, and return the former names.

    Raises ConfigError for a setting that is given under both names with different values.
    """
    return list(_rename_keys(tree, origin))


def variable(dotted: str) -> str:
    """Return the name of a setting's environment variable."""
    return ENV_PREFIX + dotted.replace(".", "__").upper()


def _rename_keys(tree: dict[str, Any], origin: str) -> Iterator[FormerName]:
    for former, present in RENAMED.items():
        source, old = _table_of(tree, former)
        if source is None or old not in source:
            continue
        name = FormerName(origin, former, present)
        value = source.pop(old)
        target, new = _table_of(tree, present, make=True)
        if target is not None:  # None: not a table, which the validation reports
            _check_same(name, value, target.setdefault(new, value))
        yield name


def _table_of(
    tree: MutableMapping[str, Any], dotted: str, *, make: bool = False
) -> tuple[MutableMapping[str, Any] | None, str]:
    """Return the table that contains a setting, and the setting's name in it.

    The table is None if it does not exist, or if another value has its name. `make` creates missing tables.
    """
    *groups, last = dotted.split(".")
    table: Any = tree
    for group in groups:
        table = table.setdefault(group, {}) if make else table.get(group)
        if not isinstance(table, MutableMapping):
            return None, last
    return table, last


def _option(dotted: str) -> str:
    return "--" + dotted.rpartition(".")[2].replace("_", "-")


def _check_same(name: FormerName, former: object, present: object) -> None:
    if str(former) != str(present):  # a variable is text where a file has a number
        old, new = name.spelled()
        raise ConfigError(
            f"{old} and {new} ({name.origin}) are the same setting with two values; remove {old}, its former name"
        )
