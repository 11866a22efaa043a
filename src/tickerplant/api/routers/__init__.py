"""The REST routes, one module for each kind of data.

To add a route: write a module with a `router`, take parameters from `api.http.queries` or `api.http.params`, and add
the module to the tuple `ROUTES` in `api.main`. Describe the route in docs/api.md. Every route under `/v1`
refuses unknown parameters. List the errors of the route in its `responses`, with the entries of `api.http.openapi`.
"""
