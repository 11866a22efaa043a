"""Files of ticks or bars: CSV (plain or gzipped), Parquet, and DBN (plain or zstd).

In: files and the user's `options`. Out: records of a file's feed (`replay`), all bars of one file (`bars`), or bars by
symbol and range from a folder (`bar_folder`).

Begin with `open_file`, which detects the format. `csv_file`, `parquet_file` and `dbn_file` read blocks of bounded size.
`layout` maps a header to roles, and `row_reader` turns a block into rows of the log's schemas. `row_reader` uses
`time_column` for times and `conditions` for trade conditions. The other modules contain single formats, rules and
checks.
"""
