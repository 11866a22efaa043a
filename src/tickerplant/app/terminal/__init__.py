"""Output on a terminal: coverage charts, price charts and progress bars.

In: statuses, values and counts. Out: lines of characters. `coverage_chart` and `price_chart` are pure; `progress` draws
on stderr.
"""
