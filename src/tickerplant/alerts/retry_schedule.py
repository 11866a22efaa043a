"""The schedule of a failed webhook: the delay before each retry, and the age at which it is given up. No IO."""

from __future__ import annotations

import random
from typing import Final

MAX_BACKOFF_S: Final = 300.0
"""Maximum seconds between two attempts."""


def backoff_s(attempts: int) -> float:
    """Return the seconds to wait after this many attempts: 1, 2, 4 …, at most `MAX_BACKOFF_S`.

    A random part of up to half is subtracted, so that webhooks that failed together are not sent together again.
    """
    return min(MAX_BACKOFF_S, 2.0 ** min(attempts - 1, 20)) * random.uniform(0.5, 1.0)


def is_expired(age_s: float, retry_hours: float) -> bool:
    """Return whether a failed webhook of this age is given up instead of retried."""
    return age_s > retry_hours * 3600
