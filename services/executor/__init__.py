"""The executor service: one model on one device, steps down and results up."""
