"""HTTP parts that the REST routes share.

In: query parameters, and Arrow tables of the store. Out: pages of rows, error answers, and parameter types for the
OpenAPI document. Begin with `queries`, then `responses`.

- `openapi`: documented parameter types, and the responses in the OpenAPI document
- `queries`: the query parameters of each route
- `params`: parsing of parameters
- `responses`: pages of rows as JSON and CSV
- `formats`: JSON and CSV encodings
- `errors`: error answers
- `auth`: the API key
- `site`: refusal of foreign pages, and security headers of answers
- `lanes`: the route class that runs requests in lanes
- `direct`: calls of routes without FastAPI's routing
- `outgoing`: the bound of unread answers
- `answer_cache`: answers that are sent again
- `repeated_requests`: requests that are answered from the cache without parsing
- `connections`: limits of connections
- `loop_turns`: turns of the server's event loop, in which received bytes are parsed
- `asgi`: types of middleware
"""
