"""Former place of `tickerplant.market_data.vendors`; it works for one more version."""
