"""The commands of `tickerplant`, one module per command or group.

In come parsed options and the loaded settings. Out come tables or JSON on stdout, and messages on stderr. Begin with
`common`: shared options, output and errors.
"""
