"""Training: a session, its settings and its callbacks."""
