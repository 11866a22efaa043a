"""Former name of `tickerplant.market_data.vendors.errors`; it works for one more version."""

import warnings

from tickerplant.market_data.vendors.errors import *  # noqa: F403

_MESSAGE = "tickerplant.market_data.vendors.errors replaces tickerplant.market_data.clients.errors: import that"
warnings.warn(_MESSAGE, DeprecationWarning, stacklevel=2)
