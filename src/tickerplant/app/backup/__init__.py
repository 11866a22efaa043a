"""Backups of an embedded plant: `create` writes a backup, and `restore` builds a data folder from it.

A backup is a folder with a copy of the log's file, a dump of the database, and `backup.json`, which is written last.
The settings file and the password of the read-only role are copied if they exist. The copy of the log is never older
than the dump. The restored plant therefore continues like a plant that was killed at the instant of the backup.

`move` copies an embedded plant to Kafka and another database.
"""
