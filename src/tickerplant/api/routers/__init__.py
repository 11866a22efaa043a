"""The REST routes, one module for each kind of data that they read."""
