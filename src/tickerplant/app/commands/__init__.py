"""The commands of `tickerplant`, one module per command or group.

In: parsed options and the loaded settings. Out: tables or JSON on stdout, and messages on stderr. Begin with `common`:
shared options, output and errors.
"""
