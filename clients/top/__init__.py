"""`quire top`: what goes on in all services, in a terminal."""
