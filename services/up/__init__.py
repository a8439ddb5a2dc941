"""Everything on one machine: starts the services as processes, watches them and stops them in order."""
