"""Reads and writes of the tables, one module per table or subject.

The arguments are Arrow batches and keys. The results are rows and Arrow tables. Writes need an open transaction;
consistent reads use a `ReadSession`. Begin with `positions`, which every transaction of persistence calls first.
"""
