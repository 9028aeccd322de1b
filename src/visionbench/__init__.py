"""Image-classification studies in PyTorch Lightning: right, exact, fast, and shown."""
