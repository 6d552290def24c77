"""Worlds that make prompts without end and can tell a right answer."""
