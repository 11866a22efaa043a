"""Indicators of volume: what trades behind the price.

One module each; every module here is found by itself.
"""
