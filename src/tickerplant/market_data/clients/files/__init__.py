"""A folder of files as a vendor of bars."""
