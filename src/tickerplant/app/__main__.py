"""Run the command line as `python -m tickerplant.app`."""

from tickerplant.app.cli import main

main()
