"""Run folders: their files, identity, checkpoints, resuming and comparing."""
