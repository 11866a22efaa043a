"""Indicators of volatility: how far the price strays.

One module each; every module here is found by itself.
"""
