"""Many simulated runs: every policy under every load with every seed, on all cores."""
