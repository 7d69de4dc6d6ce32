"""The permission map: its model, its compiler, and the bundles that are made of it."""
