"""The settings: one typed tree, its sources, and its description.

In come command-line flags, the environment and a TOML file. Out comes `Loaded`: the settings and the origin of each
value. Begin with `settings`; `groups` has the parts of the tree, `renamed` the former names, `describe` the tables.
"""
