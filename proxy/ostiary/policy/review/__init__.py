"""Reviewing a change of policy before it is deployed: what it lets through that was refused, and the reverse."""
