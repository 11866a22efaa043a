"""Former name of `tickerplant.market_data.vendors.port`; it works for one more version."""

import warnings

from tickerplant.market_data.vendors.port import *  # noqa: F403

_MESSAGE = "tickerplant.market_data.vendors.port replaces tickerplant.market_data.providers.port: import that"
warnings.warn(_MESSAGE, DeprecationWarning, stacklevel=2)
