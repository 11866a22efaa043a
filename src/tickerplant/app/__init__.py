"""Settings, supervisor, metrics, health and the command line."""
