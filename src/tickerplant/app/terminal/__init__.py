"""Output on a terminal: coverage charts, price charts and progress bars.

In come statuses, values and counts. Out come lines of characters. `coverage_chart` and `price_chart` are pure;
`progress` draws on stderr.
"""
