"""`python -m examples.demo_pd`."""
