"""What people see of a scheduler: snapshots of its executors, requests and block maps, and what happened."""
