"""Indicators computed on request, over stored or given bars.

`query` plans and evaluates a request, `calculation` is one computation.
"""
