"""`python -m tickerplant.app` is the command line."""

from tickerplant.app.cli import main

main()
