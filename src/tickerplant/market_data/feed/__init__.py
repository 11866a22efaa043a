"""Feeds into `market.prices.raw`.

`writer` appends, `cursor` is what a feed stores of itself, `commands` are records that no feed writes.
"""
