"""The load generator: a workload sent to a real server, by the clock, and what came of it."""
