"""Indicators of trend: where the price is going.

One module each; every module here is found by itself.
"""
