"""Studies: a published table, run again, with a verdict for each judged value."""
