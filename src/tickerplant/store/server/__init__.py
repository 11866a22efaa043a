"""The embedded PostgreSQL server: `embedded` starts and stops it, `_launch` runs in the child process."""
