"""What runs each step: may it be planned, the prepared run, the dispatch to the hooks, and why a step was declined."""
