"""Indicators on demand: over arrays and data frames, and over stored bars.

`batch.compute` is the public function; `dataframes` adapts its input and output. `calculation` gives declared
indicators and TA-Lib's functions (`talib_functions`) one interface, and `parameter_names` matches parameter names.
`query` selects and reads the stored bars of a request, and `catalogue` describes all indicators. The stream uses the
same declarations, so both give the same bits.
"""
