"""The application: the only package that reads settings and opens logs. It may import every other package.

In: the command line, the environment and a TOML file. Out: running services, or the output of a command. Begin with
`cli` (the commands), `config.settings` (all settings) and `runtime.plant` (the services and their order).
"""
