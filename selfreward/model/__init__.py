"""The base model, once in memory: its files, its parts, and the layers of an adapter in it."""
