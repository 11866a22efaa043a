"""Backups of an embedded plant: `create` writes one, `restore` builds a data folder from it.

A backup is a folder with a copy of the log's file, a dump of the database, and `backup.json`, which is written last.
The log's copy is never older than the database's. The restored plant therefore continues like one that was killed at
the instant of the backup.
"""
