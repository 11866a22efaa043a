"""Reads and writes of the tables. Writes need an open transaction; consistent reads use a `ReadSession`."""
