"""The checks of `tickerplant doctor`: the machine, the log, the store, and on request the vendors' keys.

In: the settings. Out: `Finding` values, each with the advice for its problem. The checks change no data, except for the
debit of a vendor's quota. They start the embedded database if it does not run. Begin with `examine.examine`.
"""
