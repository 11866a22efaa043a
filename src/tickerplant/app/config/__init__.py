"""The settings: one typed tree, its sources, and its description.

In: command-line flags, the environment and a TOML file. Out: `Loaded`, the settings and the origin of each value. Begin
with `settings`; `groups` has the parts of the tree, `renamed` the former names, `describe` the tables.
"""
