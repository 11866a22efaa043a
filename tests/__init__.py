"""The tests; they mirror `src/tickerplant`, and `support` holds the real parts that they run against."""
