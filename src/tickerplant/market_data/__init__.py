"""Vendors' feeds in: ticks, bars and marks appended to the raw topic."""
