"""How engines reach a server, and start and end one of their own."""
