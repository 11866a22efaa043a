"""Drawing in the terminal: price charts and coverage charts."""
