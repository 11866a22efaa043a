"""Rules, boards and settings of deploy/ name only metrics, labels, runbooks and settings that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from tickerplant.alerts import metrics as alert_metrics
from tickerplant.analytics.service import AnalyticsCounters
from tickerplant.api import metrics as api_metrics
from tickerplant.app import metrics as plant_metrics
from tickerplant.app.config.describe import rows
from tickerplant.app.config.settings import Loaded, Settings
from tickerplant.core.metrics import MetricSpec
from tickerplant.market_data.service import FeedEvents
from tickerplant.persistence.reporter import PersistenceCounters

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((DEPLOY / "prometheus" / "rules.test.yaml").read_text())["tests"]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
CATALOGUE: tuple[MetricSpec, ...] = (*plant_metrics.CATALOGUE, *api_metrics.CATALOGUE, *alert_metrics.CATALOGUE)
TARGET = {"job", "instance"}
"""Labels that Prometheus adds to each series."""
SERIES = {
    "up": TARGET,
    "ALERTS": {"alertname", "alertstate", "severity"},
    **{name: TARGET for name in ("process_cpu_seconds_total", "process_resident_memory_bytes")},
    **{name: TARGET for name in ("process_open_fds", "process_max_fds")},
}
"""Names of all series with their labels: of Prometheus, of the process, and of the catalogues of the plant."""
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
for _spec in CATALOGUE:
    for _suffix in SUFFIXES[_spec.kind]:
        SERIES[_spec.name + _suffix] = {*_spec.labels, *TARGET} | ({"le"} if _suffix == "_bucket" else set())
GRAMMAR = {
    "sum", "min", "max", "count", "by", "and", "or", "on", "rate", "increase", "absent", "histogram_quantile",
    "predict_linear",
}  # fmt: skip
"""Words of PromQL in the queries."""


def board_queries() -> Iterator[tuple[str, str, str]]:
    """Yield board, legend and PromQL of each target of the boards."""
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                if "expr" in target:
                    yield path.stem, target["legendFormat"], target["expr"]


QUERIES = [("rules", "", rule["expr"]) for rule in RULES] + list(board_queries())


def unknown_names(query: str) -> set[str]:
    """Return the metrics that do not exist and, as `metric{label}`, the labels that their metric does not have."""
    found = set()
    plain = re.sub(r'"[^"]*"', '""', query)
    for name, selector in re.findall(r"\b([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?", plain):
        if name in SERIES:
            labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            found |= {f"{name}{{{label}}}" for label in labels - SERIES[name]}
    without_selectors = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", plain)
    known = set().union(*(labels for name, labels in SERIES.items() if re.search(rf"\b{name}\b", plain)))
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", without_selectors):
        found |= {f"by {label}" for label in re.findall(r"\w+", grouped) if label not in known}
    words = re.findall(r"\b[a-zA-Z_:][\w:]*\b", re.sub(r"\b(?:by|on)\s*\([^)]*\)", "", without_selectors))
    return found | {word for word in words if word not in SERIES and word not in GRAMMAR}


@pytest.mark.parametrize(("where", "legend", "query"), QUERIES)
def test_every_metric_and_label_of_rules_and_boards_exists(where: str, legend: str, query: str) -> None:
    assert unknown_names(query) == set(), where
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert label in ("instance", "job", "severity") or re.search(rf"\b{label}\b", query), f"{where}: {legend}"


def test_every_event_that_rules_and_boards_select_is_counted() -> None:
    counted = {field.name for kind in (AnalyticsCounters, FeedEvents, PersistenceCounters) for field in fields(kind)}
    selected = {
        event
        for _, _, query in QUERIES
        for found in re.findall(r'event=~?"([^"]*)"', query)
        for event in found.split("|")
    }
    assert {"rows", "dead", "store_missing"} <= selected
    assert selected - counted == set()


def test_a_name_that_does_not_exist_is_found() -> None:
    assert unknown_names('sum by (no_label) (rate(tickerplant_service_up{serv="a"}[5m])) > no_metric') == {
        "tickerplant_service_up{serv}", "by no_label", "no_metric",
    }  # fmt: skip
    assert unknown_names("rate(tickerplant_service_restarts[5m])") == {"tickerplant_service_restarts"}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    headings = re.findall(r"(?m)^### (Tickerplant\w+)$", OPERATIONS)
    assert headings == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_every_alert_is_tested_silent_and_firing() -> None:
    states: dict[str, set[bool]] = {}
    for test in TESTS:
        for check in test.get("promql_expr_test", ()):
            name = re.search(r'alertname="(\w+)"', check["expr"])
            assert name is not None
            states.setdefault(name[1], set()).add(bool(check["exp_samples"]))
    assert states == {rule["alert"]: {True, False} for rule in RULES}


@pytest.mark.parametrize("path", [
    ROOT / "Dockerfile", DEPLOY / "compose.yaml", DEPLOY / "compose.cluster.yaml",
    DEPLOY / "systemd" / "tickerplant.service", *sorted((DEPLOY / "helm" / "tickerplant").rglob("*.*")),
], ids=lambda path: path.name)  # fmt: skip
def test_every_setting_that_a_file_names_exists(path: Path) -> None:
    known = {row.environment for row in rows(Loaded(Settings(), {}))}
    of_compose = {"TICKERPLANT_PORT", "TICKERPLANT_METRICS_PORT"}  # ports of the host
    named = set(re.findall(r"\bTICKERPLANT_[A-Z0-9_]+[A-Z0-9]\b", path.read_text()))
    assert named - known - of_compose == set()
