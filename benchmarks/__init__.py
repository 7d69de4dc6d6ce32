"""How fast ostiary is, beside plain Envoy on the same machine in the same run. README.md tells the method."""
