"""What several tests share: tiny models, running stacks, references."""
