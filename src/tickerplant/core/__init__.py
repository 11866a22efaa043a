"""Definitions that all services share: schemas, records, intervals, sessions, symbols, rules, times and errors.

In: arguments. Out: values. No IO and no clock; one module reads the packaged calendars.

`schemas` lists the topics and their columns. `records` encodes and decodes the records of the topics. `streams` is the
protocol between a service's state and the loop of `log.processor`. Begin with `schemas`, then `records`.
"""
