"""`tickerplant verify`: recompute bars from raw records and compare them with the recorded output."""
