"""How many steps a profile leaves out and traces at most: without TensorFlow, for the command that runs before it is imported."""

# Of 640 bytes of events for a traced step.
MOST_STEPS = {"skip_steps": 2**63, "trace_steps": 1_000_000}
