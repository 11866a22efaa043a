"""One result of a check, and the removal of secrets from its texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from tickerplant.app.config.describe import HIDDEN, secret_values
from tickerplant.app.runtime.logging import MIN_SECRET

if TYPE_CHECKING:
    from tickerplant.app.config.settings import Settings

OK, WARN, FAIL = "ok", "warn", "fail"
_BEST_FIRST: Final = (OK, WARN, FAIL)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its state, one sentence, and the advice; "" if there is nothing to do."""

    name: str
    state: str
    sentence: str
    advice: str = ""


def worst(findings: Iterable[Finding]) -> str:
    """Return the worst state; `ok` if there are no findings."""
    return max((one.state for one in findings), key=_BEST_FIRST.index, default=OK)


def without_secrets(findings: Iterable[Finding], settings: Settings) -> Iterator[Finding]:
    """Yield the findings with each secret of the settings replaced, in case an error message contains a secret."""
    hidden = sorted({one for one in secret_values(settings) if len(one) >= MIN_SECRET}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, HIDDEN)
        return text

    for one in findings:
        yield replace(one, sentence=clean(one.sentence), advice=clean(one.advice))
