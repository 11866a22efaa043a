"""Momentum indicators: the speed of price moves. One module per indicator, registered automatically."""
