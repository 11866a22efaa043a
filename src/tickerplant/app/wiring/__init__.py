"""Modules through which `app` uses the other packages, one module per subject.

In: the settings. Out: opened logs and stores, vendors, the sandbox, and rows for commands. Modules import most
packages inside functions, so that a command loads only the packages that it uses. Begin with `log` and `store`;
`open_readonly` opens both for commands that only read. `database` finds or starts the embedded PostgreSQL, under
`locks` of the data folder.
"""
