"""The settings: one typed tree (`settings`, `groups`), and the text that describes it (`describe`)."""
