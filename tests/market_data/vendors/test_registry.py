"""Vendors of other packages, found by entry points. The tests write the packages as an installer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tickerplant.core.errors import ConfigError
from tickerplant.market_data.vendors import registry
from tickerplant.market_data.vendors.port import ENTRY_POINTS, ProviderContext

ACME = """
from tickerplant.core.times import DAY_US
from tickerplant.market_data.vendors.errors import BadRequest
from tickerplant.market_data.vendors.port import BarsAnswer, BarsOffer, Offer, Quota


class Acme:
    offer = Offer(bars=(BarsOffer("1d", 100),), quotas=(Quota(50, DAY_US),))

    def __init__(self, context):
        self.name, self.key, self.options = context.name, context.key, context.options

    def cost(self, request):
        return 1

    async def bars(self, request):
        return BarsAnswer({symbol: None for symbol in request.symbols})

    async def actions(self, symbol, from_us, to_us):
        raise BadRequest("acme has no splits and dividends")

    def stream(self, symbols):
        return None

    async def close(self):
        pass


def provider(context):
    return Acme(context)


def forgetful(context):
    return object()


def misnamed(context):
    made = Acme(context)
    made.name = "someone"
    return made


def failing(context):
    raise ValueError(f"unknown key {context.key}")


number = 7
"""


def install(folder: Path, package: str, entries: dict[str, str], source: str = ACME) -> None:
    """Write the module and the metadata of an installed package."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINTS}]\n{lines}")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def made(name: str, key: str = "") -> object:
    return registry.provider(ProviderContext(name, key, {"plan": "gold"}))


def refusal(name: str, key: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        made(name, key)
    return str(refused.value)


async def test_a_package_adds_a_vendor(packages: Path) -> None:
    install(packages, "acme-tickerplant", {"acme": "acme_tickerplant:provider"})
    assert "acme" in registry.names()
    vendor = registry.provider(ProviderContext("acme", "hush", {"plan": "gold"}))
    assert (vendor.name, vendor.offer.quotas[0].credits) == ("acme", 50)
    assert vendor.options == {"plan": "gold"}  # type: ignore[attr-defined]


def test_built_in_vendors_are_found_by_entry_points() -> None:
    assert {"twelvedata", "alphavantage", "yahoo", "sandbox"} <= set(registry.names())


def test_the_error_for_an_unknown_vendor_lists_the_known_vendors(packages: Path) -> None:
    install(packages, "acme-tickerplant", {"acme": "acme_tickerplant:provider"})
    assert refusal("acne").startswith("there is no vendor 'acne'; use one of acme, alphavantage,")


def test_the_error_for_a_broken_plug_in_names_its_package_and_the_cause(packages: Path) -> None:
    install(packages, "one-that-breaks", {"broken": "one_that_breaks:provider"}, "raise RuntimeError('no licence')")
    entries = {name: f"many_faults:{name}" for name in ("forgetful", "misnamed", "failing", "number", "gone")}
    install(packages, "many-faults", entries)
    assert refusal("broken") == (
        "the vendor broken of the package one-that-breaks cannot be loaded: RuntimeError: no licence; "
        "update or uninstall it"
    )
    assert "package many-faults is not a provider: it lacks name, offer, cost" in refusal("forgetful")
    assert "package many-faults has the name 'someone'" in refusal("misnamed")
    assert "package many-faults is not a factory" in refusal("number")
    assert "package many-faults cannot be loaded: AttributeError" in refusal("gone")
    reason = refusal("failing", "hush")
    assert reason.endswith("package many-faults cannot be created: ValueError; update or uninstall it")


def test_the_error_for_a_vendor_in_two_packages_names_both(packages: Path) -> None:
    install(packages, "acme-one", {"acme": "acme_one:provider"})
    install(packages, "acme-two", {"acme": "acme_two:provider"})
    assert refusal("acme") == "the vendor 'acme' is in several packages: acme-one, acme-two; uninstall all but one"


def test_only_the_used_vendor_is_imported(packages: Path) -> None:
    install(packages, "acme-tickerplant", {"acme": "acme_tickerplant:provider"})
    install(packages, "one-that-breaks", {"broken": "one_that_breaks:provider"}, "raise RuntimeError('no licence')")
    code = (
        "import sys; from tickerplant.market_data.vendors import registry; registry.factory('acme');"
        "print(registry.names(), {'yfinance', 'ccxt', 'one_that_breaks'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(packages)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'broken'" in done.stdout
    assert done.stdout.endswith("set()\n")
