"""A market-data plant: feeds in, revisable bars, streaming indicators and gap-free history out."""
