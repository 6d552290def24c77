"""How the default engine runs a model in this process."""
