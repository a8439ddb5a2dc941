"""Models: a file for each family, which reads as the model computes."""
