"""Raw ticks to bars, and the only writer of bars."""
