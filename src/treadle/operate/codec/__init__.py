"""Protocols: bytes of a request to a query, outputs to bytes of an answer. No HTTP, no model."""
