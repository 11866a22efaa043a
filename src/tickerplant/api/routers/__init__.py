"""The REST endpoints, by what they read."""
