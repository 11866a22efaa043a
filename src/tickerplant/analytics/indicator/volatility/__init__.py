"""Volatility indicators: the size of price moves. One module per indicator, registered automatically."""
