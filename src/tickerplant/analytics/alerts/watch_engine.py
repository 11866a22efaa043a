"""The engine that computes the operands of alert rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tickerplant.analytics.alerts.rule_operands import operands
from tickerplant.analytics.indicator.declaration import Indicator
from tickerplant.analytics.realtime.engine import Engine
from tickerplant.analytics.realtime.interval_engine import BarRows, IntervalEngine
from tickerplant.analytics.splits import Splits
from tickerplant.core import interval as intervals
from tickerplant.core.alerts import ON_UPDATE, Rule
from tickerplant.core.interval import Interval
from tickerplant.core.rules import Rules


class WatchEngine(Engine):
    """An engine for the indicators that alert rules use, in the intervals of those rules."""

    def __init__(self, rules: Rules, splits: Splits) -> None:
        self.closed: dict[str, Counter[Indicator]] = {}
        self.forming: Counter[Indicator] = Counter()
        super().__init__(rules, splits)

    def wanted_indicators(self, rules: Rules) -> tuple[Mapping[Interval, Sequence[Indicator]], frozenset[Indicator]]:
        """Return the indicators of the rules by interval, and the indicators of the rules that also use forming bars.

        The order of the indicators does not depend on the order in which rules were added.
        """
        planned = {
            intervals.parse(name): sorted(used, key=str) for name, used in sorted(self.closed.items()) if used.total()
        }
        return dict(sorted(planned.items())), frozenset(self.forming)

    def count_rule(self, rule: Rule, number: int) -> bool:
        """Add `number` to the use counts of a rule's indicators; return whether the set of indicators changed."""
        used = self.closed.setdefault(rule.interval, Counter())
        before = set(used), set(self.forming)
        for operand in operands(rule):
            if operand.indicator is not None:
                for counter in (used, self.forming) if rule.when == ON_UPDATE else (used,):
                    counter[operand.indicator] += number
                    if not counter[operand.indicator]:
                        del counter[operand.indicator]
        return (set(used), set(self.forming)) != before


def seed_history(target: IntervalEngine, row: int, source: IntervalEngine, source_row: int) -> None:
    """Copy a symbol's retained bars into an engine that has no bars of this symbol.

    Does nothing if no bars are retained, or if `source` lacks a column that `target` needs.
    """
    history, needed = source.history, target.history.columns
    count = int(history.count[source_row])
    if not history.retained[source_row] or not set(needed) <= set(history.columns):
        return
    bars = history.read(source_row, history.oldest(source_row), count)
    times = history.read_times(source_row)
    versions = np.zeros(len(times), dtype=np.int64)
    usable = np.ones(len(times), dtype=np.bool_)
    columns = {name: bars[name] for name in needed}
    target.close(BarRows(np.full(len(times), row), times, versions, columns, usable))
