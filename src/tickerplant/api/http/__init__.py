"""HTTP parts that the REST routes share.

`openapi` has the documented parameter types, `queries` the parameters of each route, `params` their parsing,
`responses` pages of rows as JSON and CSV, `formats` the encodings, `errors` error answers, `auth` the API key, and
`asgi` the types of middleware.
"""
