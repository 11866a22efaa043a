"""Number of examples of property tests: few and fixed in `make test`, many and new in `make test-all`.

    @examples(150)
    @given(...)

`.venv/bin/pytest --hypothesis-profile=thorough` tries 150 examples; the default profile `ci` tries a third of them.
"""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

THOROUGH: Final = "thorough"
_SLOW: Final = (HealthCheck.too_slow,)  # slow generation on a busy machine is not an error

settings.register_profile("ci", max_examples=34, derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile(THOROUGH, max_examples=200, deadline=None, suppress_health_check=_SLOW)


def examples(thorough: int) -> settings:
    """Return the settings of a test that tries `thorough` examples in the thorough profile, and a third otherwise."""
    return settings(max_examples=thorough if settings.get_current_profile_name() == THOROUGH else max(1, thorough // 3))
