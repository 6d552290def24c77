"""What any engine must hold to, on the tiny model."""
