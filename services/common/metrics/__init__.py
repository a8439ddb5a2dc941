"""What services measure of themselves, in Prometheus' format."""
