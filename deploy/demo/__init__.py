"""The demonstration: the whole cluster on real traffic, with things that break while it runs."""
