"""Servers, data and helpers that tests share."""
