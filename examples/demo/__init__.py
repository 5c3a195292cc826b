"""`python -m examples.demo`."""
