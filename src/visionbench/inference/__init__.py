"""A finished run at work: predictions and exports."""
