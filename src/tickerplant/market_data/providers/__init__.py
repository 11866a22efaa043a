"""Earlier import path of `tickerplant.market_data.vendors`; works for one more version."""
