"""A project of a user's own, written by `visionbench new`."""
