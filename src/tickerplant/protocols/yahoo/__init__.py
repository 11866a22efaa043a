"""Yahoo's API, server side: `chart` and `stream`."""
