"""Vendors as the plant sees them: the port (`port`), and who is there (`registry`)."""
