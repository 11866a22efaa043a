"""Fired alerts, and their encoding as rows of an `Alerts` record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tickerplant.analytics.alerts.rule_state import Firing
from tickerplant.core import schemas
from tickerplant.core.alerts import Rule, alert_id
from tickerplant.core.arrow_values import timestamps


@dataclass(slots=True)
class FiredAlert:
    """One firing of a rule, with the operands' values, and the state and version of the bar."""

    rule: Rule
    firing: Firing
    left: float
    right: float
    state: int
    version: int


def alert_batch(fired: Sequence[FiredAlert]) -> pa.RecordBatch:
    """Return fired alerts as rows of an `Alerts` record (`schemas.ALERT`), in the given order."""

    def text(values: list[str], kind: pa.DataType) -> pa.Array:
        return pa.array(values, pa.utf8()).dictionary_encode().cast(kind)

    rules = [one.rule for one in fired]
    ids = [alert_id(one.rule.id, one.rule.revision, one.firing.time_us, one.firing.ordinal) for one in fired]
    arrays = [
        pa.array(ids, pa.utf8()),
        pa.array([rule.id for rule in rules], pa.utf8()),
        pa.array([rule.revision for rule in rules], pa.int32()),
        timestamps(np.array([one.firing.time_us for one in fired], dtype=np.int64)),
        text([rule.symbol for rule in rules], schemas.TEXT),
        text([rule.interval for rule in rules], schemas.SMALL_TEXT),
        pa.array([str(rule) for rule in rules], pa.utf8()),
        pa.array([one.left for one in fired]),
        pa.array([one.right for one in fired]),
        text([schemas.STATES[one.state] for one in fired], schemas.SMALL_TEXT),
        pa.array([one.firing.revised for one in fired]),
        pa.array([one.version for one in fired], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schemas.ALERT)
