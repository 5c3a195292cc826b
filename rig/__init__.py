"""Test rigs: real engines and small models, shared by tests, benchmarks and the demo; not part of the package."""
