"""The computing half: from a `StepPlan` to token ids. It knows tensors, and neither queues nor text."""
