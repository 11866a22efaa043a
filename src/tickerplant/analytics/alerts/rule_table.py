"""The live rules of one interval as columns, so that NumPy evaluates all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tickerplant.analytics.alerts.rule_operands import operand_of, operands
from tickerplant.analytics.alerts.rule_state import UNKNOWN, RuleState
from tickerplant.analytics.realtime.interval_engine import Chunk
from tickerplant.core.alerts import CROSSES_BELOW, LESS, ON_UPDATE, PERCENT_CHANGE, Rule
from tickerplant.core.times import BoolArray, Float64Array, Int64Array

_NUMBER, _ABSENT = -1, -2


@dataclass(slots=True)
class RuleTable:
    """The live rules of one interval, ordered by the symbol's row, then id. Each column has one entry per rule."""

    states: list[RuleState]
    rows: Int64Array
    """The symbol's row in the watch engine."""
    sign: Float64Array
    """1 if the left operand must be above the right operand, -1 if below."""
    inclusive: BoolArray
    on_update: BoolArray
    columns: list[tuple[str, str]]
    """The names of both operands' value columns; "" for a number."""
    numbers: Float64Array
    """The value of a right operand that is a number."""
    truth: Int64Array
    """The truth of the newest observation."""
    closed_truth: Int64Array
    """The truth of the newest closed bar."""
    last_us: Int64Array
    observed_us: Int64Array
    _column_numbers: dict[tuple[str, ...], tuple[Int64Array, Int64Array]] = field(default_factory=dict)

    def column_numbers(self, columns: tuple[str, ...]) -> tuple[Int64Array, Int64Array]:
        """Return the operands' indices in `columns`, (left, right): `_NUMBER` for a number, `_ABSENT` if missing."""
        found = self._column_numbers.get(columns)
        if found is None:
            numbers = {name: number for number, name in enumerate(columns)} | {"": _NUMBER}
            pairs = np.array([[numbers.get(name, _ABSENT) for name in pair] for pair in self.columns], dtype=np.int64)
            found = self._column_numbers[columns] = (pairs[:, 0], pairs[:, 1])
        return found

    def values(
        self, columns: tuple[str, ...], chunk: Chunk, which: Int64Array, at: Int64Array
    ) -> tuple[Float64Array, Float64Array]:
        """Return the values of both operands of the rules `which`, each at its own row `at` of the chunk.

        `columns` are those of the chunk. A value is NaN if the chunk lacks the operand's column.
        """
        left, right = (numbers[which] for numbers in self.column_numbers(columns))
        return _read(chunk, left, at), np.where(right == _NUMBER, self.numbers[which], _read(chunk, right, at))

    def truths(self, which: Int64Array, left: Float64Array, right: Float64Array) -> Int64Array:
        """Return the truth of each rule in `which`: 1, 0, or -1 if an operand is null."""
        difference = self.sign[which] * (left - right)
        true = np.where(self.inclusive[which], difference >= 0.0, difference > 0.0)
        truths: Int64Array = np.where(np.isnan(difference), UNKNOWN, true.astype(np.int64))
        return truths

    def rules_of(self, row: int) -> range:
        """Return the indices of the rules of a symbol."""
        return range(int(np.searchsorted(self.rows, row)), int(np.searchsorted(self.rows, row, side="right")))

    def load(self, index: int) -> RuleState:
        """Copy the current times from the columns into a rule's state, and return the state."""
        one = self.states[index]
        one.last_us, one.observed_us = int(self.last_us[index]), int(self.observed_us[index])
        one.max_closed_us = max(one.max_closed_us, one.last_us)
        return one

    def store(self, index: int) -> None:
        """Copy a rule's state into the columns."""
        one = self.states[index]
        self.truth[index], self.closed_truth[index] = one.truth, one.closed_truth
        self.last_us[index], self.observed_us[index] = one.last_us, one.observed_us


def make_table(states: Sequence[RuleState], rows: Int64Array) -> RuleTable:
    """Return the table of these rules. `rows` contains the row of each rule's symbol, in ascending order."""
    pairs = [operands(one.rule) for one in states]
    return RuleTable(
        list(states),
        rows,
        np.array([_sign(one.rule) for one in states]),
        np.array([one.rule.operator == PERCENT_CHANGE for one in states]),
        np.array([one.rule.when == ON_UPDATE for one in states]),
        [(left.column, right.column) for left, right in pairs],
        np.array([right.number for _, right in pairs]),
        np.array([one.truth for one in states], dtype=np.int64),
        np.array([one.closed_truth for one in states], dtype=np.int64),
        np.array([one.last_us for one in states], dtype=np.int64),
        np.array([one.observed_us for one in states], dtype=np.int64),
    )


def _sign(rule: Rule) -> float:
    if rule.operator == PERCENT_CHANGE:
        return 1.0 if operand_of(rule.right).number > 0 else -1.0
    return -1.0 if rule.operator in (CROSSES_BELOW, LESS) else 1.0


def _read(chunk: Chunk, columns: Int64Array, at: Int64Array) -> Float64Array:
    """Return the value of each column at its row, NaN for negative columns."""
    values = np.full(len(columns), np.nan)
    known = np.flatnonzero(columns >= 0)
    values[known] = chunk.values[columns[known], at[known]]
    return values
