"""The settings: one typed tree, the places where values are set, and a description.

In: command-line flags, the environment and a TOML file. Out: `Loaded`, the settings and the origin of each value. Begin
with `settings`. `groups`, `store_access` and `topics` contain the parts of the tree, and `renamed` contains former
names. `describe` creates tables, and `template` creates a settings file.

To add a setting: add a `Field` with a description to a class of `groups`, or to `Settings` for a top-level setting.
Pass its value to the component in `app/wiring` or `app/runtime/services.py`. Regenerate docs/settings.md with
`tickerplant config --markdown`. A setting below `rules` changes outputs, so it is also a field of `core.rules.Rules`
and of `RulesSettings.rules()`.
"""
