"""HTTP parts that the REST routes share.

- `openapi`: documented parameter types, and the responses in the OpenAPI document
- `queries`: the query parameters of each route
- `params`: parsing of parameters
- `responses`: pages of rows as JSON and CSV
- `formats`: JSON and CSV encodings
- `errors`: error answers
- `auth`: the API key
- `asgi`: types of middleware
"""
