"""The embedded PostgreSQL server: `embedded` starts and stops it with a launcher of `machine`."""
