"""Earlier import path of `tickerplant.market_data.vendors.errors`; works for one more version."""

import warnings

from tickerplant.market_data.vendors.errors import BadKey as BadKey
from tickerplant.market_data.vendors.errors import BadRequest as BadRequest
from tickerplant.market_data.vendors.errors import Burst as Burst
from tickerplant.market_data.vendors.errors import Malformed as Malformed
from tickerplant.market_data.vendors.errors import NoData as NoData
from tickerplant.market_data.vendors.errors import NotEntitled as NotEntitled
from tickerplant.market_data.vendors.errors import QuotaSpent as QuotaSpent
from tickerplant.market_data.vendors.errors import UnknownSymbol as UnknownSymbol
from tickerplant.market_data.vendors.errors import VendorDown as VendorDown
from tickerplant.market_data.vendors.errors import VendorError as VendorError

_MESSAGE = (
    "tickerplant.market_data.clients.errors is now tickerplant.market_data.vendors.errors; import the new name, "
    "because the old name works for one more version only"
)
warnings.warn(_MESSAGE, DeprecationWarning, stacklevel=2)
