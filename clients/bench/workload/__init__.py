"""What to send and when: synthetic workloads and recorded traces, the same for the same seed."""
