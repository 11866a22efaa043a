"""Each parser reads up to 3,000 mutated answers. `make fuzz` runs millions."""

from __future__ import annotations

import random

import pytest
from tools.fuzz_targets import TARGETS, mutate

# yfinance calls deprecated functions of pandas.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::RuntimeWarning")
PAYLOADS = {"yahoo_chart": 150}


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_parser_raises_only_documented_errors_for_mutated_answers(name: str) -> None:
    target, dice = TARGETS[name], random.Random(name)
    assert target.seeds
    for seed in target.seeds:
        target.run(seed)
    for _ in range(PAYLOADS.get(name, 3_000)):
        payload = mutate(dice.choice(target.seeds), target.seeds, dice)
        try:
            target.run(payload)
        except Exception as error:
            raise AssertionError(payload) from error


def test_the_same_seed_gives_the_same_mutations() -> None:
    target = TARGETS["alphavantage_daily"]
    first, second = (mutate(target.seeds[0], target.seeds, random.Random(4)) for _ in range(2))
    assert first == second
