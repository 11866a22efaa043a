"""Vendors' APIs as servers speak them: a request in, an answer or an error out. No IO."""
