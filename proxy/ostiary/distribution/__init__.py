"""Bundles on their way: published to where OPAs fetch them, served to them, and which of them has which."""
