"""HTTP/1.1 in front of the service: our own protocol, its listener and drain; or the service as an ASGI application."""
