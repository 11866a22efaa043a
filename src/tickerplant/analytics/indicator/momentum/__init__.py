"""Indicators of momentum: how fast, and how one-sidedly, the price moves.

One module each; every module here is found by itself.
"""
