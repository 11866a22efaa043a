"""Repositories, one module per table: writes inside a transaction of persistence, reads inside a `ReadSession`."""
