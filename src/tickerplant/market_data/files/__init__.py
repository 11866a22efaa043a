"""Files of ticks or bars (CSV, gzipped CSV, Parquet): what is in them, read in blocks of bounded size."""
