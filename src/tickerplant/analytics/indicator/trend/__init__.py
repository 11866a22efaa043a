"""Trend indicators: the direction of the price. One module per indicator, registered automatically."""
