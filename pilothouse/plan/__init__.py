"""What fleet a workload needs: advice, with its arithmetic and its reasons."""
