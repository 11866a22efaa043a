"""A folder of files as a vendor of bars: `client` answers requests from the files."""
