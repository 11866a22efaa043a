"""Write the boards of Grafana in deploy/grafana/dashboards: `python tools/boards.py`.

`--check` compares the files with this module instead. Panels are in rows of a grid of 24 columns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboards"
PROMETHEUS: Final = {"type": "prometheus", "uid": "prometheus"}
STORE: Final = {"type": "grafana-postgresql-datasource", "uid": "tickerplant"}
JOB: Final = 'job=~".*tickerplant.*"'


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are PromQL with legends; `sql` are statements, each with Grafana's format of its result."""

    title: str
    kind: str = "timeseries"
    queries: Sequence[tuple[str, str]] = ()
    sql: Sequence[tuple[str, str]] = ()
    unit: str = "short"
    width: int = 8
    height: int = 7
    text: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Sequence[tuple[float | None, str]] = ()

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel at a position of the grid."""
        source = STORE if self.sql else PROMETHEUS
        targets: list[dict[str, Any]] = [
            {"refId": chr(65 + i), "datasource": source, "expr": query, "legendFormat": legend}
            for i, (query, legend) in enumerate(self.queries)
        ]
        targets += [
            {"refId": chr(65 + i), "datasource": source, "format": kind, "rawQuery": True, "editorMode": "code",
             "rawSql": statement}
            for i, (statement, kind) in enumerate(self.sql)
        ]  # fmt: skip
        defaults: dict[str, Any] = {"unit": self.unit}
        if self.thresholds:
            steps = [{"value": value, "color": colour} for value, colour in self.thresholds]
            defaults |= {"thresholds": {"mode": "absolute", "steps": steps}}
        return {
            "id": number, "type": self.kind, "title": self.title, "description": self.text, "datasource": source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height}, "targets": targets,
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": dict(self.options),
        }  # fmt: skip


@dataclass(frozen=True)
class Board:
    """One board, as a file named like its `uid`."""

    uid: str
    title: str
    panels: Sequence[Panel]
    variables: Sequence[Mapping[str, Any]] = ()
    refresh: str = "30s"
    start: str = "now-6h"

    def as_json(self) -> dict[str, Any]:
        """Return the board in the format of Grafana's files."""
        panels, x, y, row = [], 0, 0, 0
        for number, panel in enumerate(self.panels, 1):
            if x + panel.width > 24:
                x, y, row = 0, y + row, 0
            panels.append(panel.as_json(number, x, y))
            x, row = x + panel.width, max(row, panel.height)
        return {
            "uid": f"tickerplant-{self.uid}", "title": f"Tickerplant: {self.title}", "tags": ["tickerplant"],
            "schemaVersion": 41, "version": 1, "editable": True, "timezone": "browser", "refresh": self.refresh,
            "time": {"from": self.start, "to": "now"}, "templating": {"list": list(self.variables)},
            "annotations": {"list": []}, "links": [], "panels": panels,
        }  # fmt: skip


def _variable(name: str, label: str, statement: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": STORE, "query": statement, "refresh": 2, "sort": 0,
        "multi": False, "includeAll": False,
    }  # fmt: skip


UP_OR_DOWN: Final = ((None, "red"), (1.0, "green"))
ANY_IS_BAD: Final = ((None, "green"), (1.0, "red"))

PLANT: Final = Board("plant", "plant", (
    Panel("Processes", "stat", ((f"up{{{JOB}}}", "{{instance}}"),), width=6, height=5, thresholds=UP_OR_DOWN),
    Panel("Services", "stat", (("min by (service) (tickerplant_service_up)", "{{service}}"),), width=10, height=5,
          thresholds=UP_OR_DOWN, text="1 while all members of the service run"),
    Panel("Alerts", "stat", (('count by (severity) (ALERTS{alertname=~"Tickerplant.*", alertstate="firing"})',
          "{{severity}}"),), width=4, height=5, thresholds=ANY_IS_BAD, text="docs/operations.md has the runbooks"),
    Panel("Free disk", "stat", (("min(tickerplant_disk_free_bytes)", "free"),), unit="bytes", width=4, height=5,
          thresholds=((None, "red"), (2.0**31, "orange"), (2.0**33, "green"))),
    Panel("Lag of each service", queries=(
          ("sum by (group) (max by (group, topic, partition) (tickerplant_group_lag_records))", "{{group}}"),),
          text="Unread records. Above 5,000 for ten minutes: TickerplantLag"),
    Panel("Records appended", queries=(
          ("sum by (topic) (max by (topic, partition) (rate(tickerplant_log_records_total[5m])))", "{{topic}}"),),
          unit="cps"),
    Panel("Rows stored", queries=(
          ('sum(rate(tickerplant_service_events_total{service="persistence", event="rows"}[5m]))', "rows"),
          ('sum(rate(tickerplant_service_events_total{service="persistence", event="ticks"}[5m]))', "ticks"),
          ('sum(rate(tickerplant_service_events_total{service="persistence", event="transactions"}[5m]))',
           "transactions")), unit="cps"),
    Panel("Errors that repeat", queries=(("max by (service) (tickerplant_service_error_seconds)", "{{service}}"),),
          unit="s", text="Seconds for which the present error of a service repeats"),
    Panel("Restarts of services", queries=(
          ("sum by (service) (increase(tickerplant_service_restarts_total[15m]))", "{{service}}"),)),
    Panel("Lost or refused", queries=(
          ("max by (group) (tickerplant_group_lost_offsets)", "lost for {{group}}"),
          ("max by (service) (tickerplant_refused_partitions)", "refused partitions"),
          ("max(tickerplant_log_metrics_age_seconds)", "age of the log's metrics, s"))),
    Panel("Requests", queries=(
          ("sum by (path) (rate(tickerplant_api_requests_total[5m]))", "{{path}}"),), unit="reqps"),
    Panel("Time of requests", queries=tuple(
          (f"histogram_quantile({q}, sum by (le) (rate(tickerplant_api_request_seconds_bucket[5m])))", f"p{q * 100:g}")
          for q in (0.5, 0.95, 0.99)), unit="s"),
    Panel("Refused requests and errors", queries=(
          ("sum by (reason) (rate(tickerplant_api_limited_total[5m]))", "{{reason}}"),
          ("sum by (header) (rate(tickerplant_api_refused_pages_total[5m]))", "foreign page: {{header}}"),
          ('sum(rate(tickerplant_api_requests_total{status=~"5.."}[5m]))', "5xx")), unit="reqps"),
    Panel("Stream: clients", queries=(("sum(tickerplant_api_stream_clients)", "clients"),
          ("sum(tickerplant_api_connections)", "connections"))),
    Panel("Stream: delay", queries=(("max(tickerplant_api_stream_tail_lag_seconds)", "behind the log"),
          ("histogram_quantile(0.99, sum by (le) (rate(tickerplant_api_loop_delay_seconds_bucket[5m])))",
           "event loop, p99")), unit="s"),
    Panel("Stream: messages", queries=(("sum(rate(tickerplant_api_stream_frames_total[5m]))", "sent"),
          ("sum(rate(tickerplant_api_stream_conflated_rows_total[5m]))", "conflated rows"),
          ("sum(rate(tickerplant_api_stream_dropped_total[5m]))", "dropped clients"),
          ("sum(rate(tickerplant_api_stream_resyncs_total[5m]))", "resyncs")), unit="cps"),
    Panel("Requests in lanes", queries=(
          ("sum by (lane, state) (tickerplant_api_lane_requests)", "{{lane}}: {{state}}"),)),
    Panel("CPU", queries=((f"rate(process_cpu_seconds_total{{{JOB}}}[5m])", "{{instance}}"),), unit="percentunit"),
    Panel("Memory", queries=((f"process_resident_memory_bytes{{{JOB}}}", "{{instance}}"),), unit="bytes"),
    Panel("File descriptors", queries=((f"process_open_fds{{{JOB}}} / process_max_fds{{{JOB}}}", "{{instance}}"),),
          unit="percentunit"),
    Panel("Webhooks of alerts", queries=(
          ("sum(increase(tickerplant_alert_webhooks_delivered_total[15m]))", "delivered"),
          ("sum(increase(tickerplant_alert_webhooks_failed_attempts_total[15m]))", "failed attempts"),
          ("sum(increase(tickerplant_alert_webhooks_given_up_total[15m]))", "given up"))),
))  # fmt: skip
"""Processes, services, log, API and stream."""

FEED_EVENTS: Final = 'tickerplant_service_events_total{service=~"feed .*", event="%s"}'

FEEDS: Final = Board("feeds", "feeds and vendors", (
    Panel("Feeds", "stat", (("min by (feed) (tickerplant_feed_up)", "{{feed}}"),), width=12, height=5,
          thresholds=UP_OR_DOWN, text="1 while the feed is connected"),
    Panel("Raw records", "stat", (
          ('sum(max by (topic, partition) (rate(tickerplant_log_records_total{topic="market.prices.raw"}[5m])))',
           "records/s"),), unit="cps", width=6, height=5),
    Panel("Series that wait for stored history", "stat", (
          ('max(tickerplant_service_events_total{service="analytics", event="pending"})', "series"),), width=6,
          height=5),
    Panel("Ticks", queries=((f"sum by (service) (rate({FEED_EVENTS % 'ticks'}[5m]))", "{{service}}"),), unit="cps"),
    Panel("Messages", queries=((f"sum by (service) (rate({FEED_EVENTS % 'messages'}[5m]))", "{{service}}"),),
          unit="cps"),
    Panel("Unusable or repeated messages", queries=tuple(
          (f"sum by (service) (increase({FEED_EVENTS % event}[15m]))", f"{{{{service}}}}: {event}")
          for event in ("dead", "dead_dropped", "unwanted", "repeats", "conflicts", "losses", "floods"))),
    Panel("Ticks in no bar", queries=(
          ("sum by (feed) (increase(tickerplant_late_ticks_total[1h]))", "{{feed}}: late"),
          ("sum by (feed) (increase(tickerplant_unsupported_ticks_total[1h]))", "{{feed}}: unsupported"))),
    Panel("Bars that differ between sources", queries=(
          ("sum by (feed) (increase(tickerplant_source_differences_total[1h]))", "{{feed}}"),)),
    Panel("Dead letters and unreadable records", queries=(
          ('sum(max by (topic, partition) (increase(tickerplant_log_records_total{topic="market.deadletter"}[15m])))',
           "dead letters"),
          ('sum by (service) (increase(tickerplant_service_events_total{event="unreadable"}[15m]))',
           "{{service}}: unreadable"))),
    Panel("State of each feed", "table", sql=((
          "SELECT feed, state, since, reason, late_ticks, sent_at FROM feeds\n"
          "WHERE sent_at > now() - INTERVAL '7 days' ORDER BY sent_at DESC LIMIT 50", "table"),), width=24),
    Panel("Answers of vendors about history", "table", sql=((
          'SELECT source, verdict, "interval", count(*) AS answers, count(DISTINCT symbol) AS symbols,\n'
          "    max(to_time) AS newest, min(again_at) AS asked_again_at\n"
          "FROM answers GROUP BY source, verdict, \"interval\" ORDER BY 1, 2, 3 LIMIT 100", "table"),), width=12),
    Panel("Minutes of feeds with silent symbols", "timeseries", sql=((
          'SELECT time_bucket AS "time", feed, silent FROM (\n'
          "    SELECT date_bin('15 minutes', \"time\", TIMESTAMPTZ '2000-01-01') AS time_bucket, feed,\n"
          "        sum(cardinality(silent)) AS silent\n"
          "    FROM coverage WHERE \"interval\" = '1m' AND $__timeFilter(\"time\") GROUP BY 1, 2\n"
          ") AS counted ORDER BY 1", "time_series"),), width=12),
))  # fmt: skip
"""Feeds, dead letters, vendors' answers."""

BAR_COLUMNS: Final = 'SELECT "time", open, high, low, close, volume'
CHOSEN: Final = 'symbol = ${symbol:sqlstring} AND "interval" = ${interval:sqlstring} AND $__timeFilter("time")'

MARKET: Final = Board("market", "market", (
    Panel("$symbol, $interval", "candlestick", sql=((
          f"{BAR_COLUMNS}\nFROM bars\nWHERE {CHOSEN} AND open IS NOT NULL\nORDER BY \"time\"", "table"),), width=18,
          height=14, options={"mode": "candles+volume", "candleStyle": "candles", "colorStrategy": "open-close",
                              "fields": {"open": "open", "high": "high", "low": "low", "close": "close",
                                         "volume": "volume"}},
          text="As traded, not adjusted for splits. The newest candle is the forming bar."),
    Panel("Newest prices", "table", sql=((
          'SELECT symbol, price, size, "time", source FROM latest_prices ORDER BY symbol LIMIT 1000', "table"),),
          width=6, height=14),
    Panel("Averages", sql=((
          'SELECT "time", indicator, value FROM indicators\n'
          f"WHERE {CHOSEN} AND state = 'final' AND (indicator LIKE 'sma%' OR indicator LIKE 'ema%')\n"
          'ORDER BY "time"', "time_series"),), width=12, height=9),
    Panel("Oscillators", sql=((
          'SELECT "time", indicator, value FROM indicators\n'
          f"WHERE {CHOSEN} AND state = 'final' AND (indicator LIKE 'rsi%' OR indicator LIKE 'stoch%')\n"
          'ORDER BY "time"', "time_series"),), width=12, height=9),
    Panel("Trades and volume per bar", sql=((
          'SELECT "time", volume, trades FROM bars\n'
          f"WHERE {CHOSEN} ORDER BY \"time\"", "time_series"),), width=8),
    Panel("Incomplete bars", "table", sql=((
          'SELECT "time", close, volume, trades, source, state FROM bars\n'
          f"WHERE {CHOSEN} AND NOT complete AND state = 'final' ORDER BY \"time\" DESC LIMIT 100", "table"),), width=8),
    Panel("Revised bars", "table", sql=((
          'SELECT "time", close, revision, reason, published_at FROM bars\n'
          f"WHERE {CHOSEN} AND revision > 0 ORDER BY published_at DESC LIMIT 100", "table"),), width=8),
), variables=(
    _variable("symbol", "Symbol", "SELECT symbol FROM symbols ORDER BY symbol"),
    _variable("interval", "Interval",
              "SELECT name FROM (SELECT DISTINCT unnest(intervals) AS name FROM symbols) AS known\n"
              "ORDER BY array_position(ARRAY['5m', '1m', '1d'], name), name"),
), start="now-24h")  # fmt: skip
"""Candles, indicators and newest prices, from the views of docs/sql.md."""

BOARDS: Final = (PLANT, FEEDS, MARKET)


def files() -> dict[Path, str]:
    """Return the text of each file."""
    return {FOLDER / f"{board.uid}.json": json.dumps(board.as_json(), indent=2) + "\n" for board in BOARDS}


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them with `--check`; return 1 if one differs."""
    different = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    for path in different:
        if "--check" in arguments:
            print(f"{path} differs from tools/boards.py; run python tools/boards.py")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files()[path])
    return int("--check" in arguments and bool(different))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
