"""Tests, in the folders of `src/tickerplant`. `support` contains the servers and data that they use."""
