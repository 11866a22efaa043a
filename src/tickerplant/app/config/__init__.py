"""The settings: one typed tree, its sources, and its description.

In: command-line flags, the environment and a TOML file. Out: `Loaded`, the settings and the origin of each value. Begin
with `settings`; `groups` has the parts of the tree, `renamed` the former names, `describe` the tables.

To add a setting: add a `Field` with a description to a class of `groups`, or to `Settings` for a top-level one. Pass
its value on in `app/wiring` or `app/runtime/services.py`. Regenerate docs/settings.md with `tickerplant config
--markdown`. A setting below `rules` changes outputs, so it is also a field of `core.rules.Rules` and of
`RulesSettings.rules()`.
"""
