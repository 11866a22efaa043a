"""Earlier import path of `tickerplant.market_data.vendors.port`, with the old names; works for one more version."""

import warnings
from typing import Protocol, TypeAlias

from tickerplant.market_data.feed.dead_letters import DeadRow as DeadRow
from tickerplant.market_data.vendors import port
from tickerplant.market_data.vendors.legacy_streams import LegacyTickStream
from tickerplant.market_data.vendors.legacy_streams import Received as Received
from tickerplant.market_data.vendors.legacy_streams import Said as Said
from tickerplant.market_data.vendors.port import ACTIONS as ACTIONS
from tickerplant.market_data.vendors.port import DAILY as DAILY
from tickerplant.market_data.vendors.port import ENTRY_POINTS as ENTRY_POINTS
from tickerplant.market_data.vendors.port import INTRADAY as INTRADAY
from tickerplant.market_data.vendors.port import KINDS as KINDS
from tickerplant.market_data.vendors.port import STREAM as STREAM
from tickerplant.market_data.vendors.port import ActionsAnswer as ActionsAnswer
from tickerplant.market_data.vendors.port import BarsAnswer as BarsAnswer
from tickerplant.market_data.vendors.port import BarsOffer as BarsOffer
from tickerplant.market_data.vendors.port import BarsRequest as BarsRequest
from tickerplant.market_data.vendors.port import Connected as Connected
from tickerplant.market_data.vendors.port import Credits as Credits
from tickerplant.market_data.vendors.port import Disconnected as Lost
from tickerplant.market_data.vendors.port import KeyRejected as Refused
from tickerplant.market_data.vendors.port import Offer as Offer
from tickerplant.market_data.vendors.port import ProviderContext as ProviderContext
from tickerplant.market_data.vendors.port import Quota as Quota
from tickerplant.market_data.vendors.port import kind_of as kind_of

TickStream = LegacyTickStream
StreamEvent: TypeAlias = Connected | Received | Lost | Refused


class Provider(port.Provider, Protocol):
    """The earlier form of `vendors.port.Provider`."""

    async def actions(self, symbol: str, from_us: int, to_us: int) -> ActionsAnswer:
        """Send one request for splits and dividends."""
        ...


_MESSAGE = (
    "tickerplant.market_data.providers.port is now tickerplant.market_data.vendors.port; import the new name, because "
    "the old name works for one more version only"
)
warnings.warn(_MESSAGE, DeprecationWarning, stacklevel=2)
