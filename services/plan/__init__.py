"""`quire plan`: what fits on a machine and how fast it is, from measured ceilings. Knows no torch."""
