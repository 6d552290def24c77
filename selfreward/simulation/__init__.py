"""Requests whose answers code can check: constraints, problems of reasoning-gym, right answers that a file holds."""
