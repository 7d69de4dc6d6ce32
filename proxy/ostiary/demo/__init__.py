"""The demo: an issuer, three services, OPA and the proxy on embedded defaults, and a tour of what they do."""
