"""The administrative application, on a listener of its own."""
