"""Who runs in a step: the micro-batch policies, one file each."""
