"""What to deploy: from model, hardware, objectives and workload to a plan, its price, and manifests."""
