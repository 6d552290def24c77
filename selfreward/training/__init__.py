"""Preference training: the only place that imports trl, and the one place that decides what the reference is."""
