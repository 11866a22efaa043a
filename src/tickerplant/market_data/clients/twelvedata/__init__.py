"""Twelve Data.

`messages` and `quotes` parse (pure), `client` sends requests, `stream` and `connection` receive prices.
"""
