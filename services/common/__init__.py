"""What all services share: the wire, starting and stopping, health."""
