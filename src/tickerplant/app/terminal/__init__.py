"""Output on a terminal: text, JSON and tables, coverage charts, price charts, progress bars and the SQL prompt.

In: statuses, values and counts. Out: lines of characters. `output` escapes control characters. `coverage_chart` and
`price_chart` are pure; `progress` draws on stderr.
"""
