"""Vendors' clients: for each, `messages` (pure parsing) and what does IO."""
