"""What engines are, and whether those that work together are alike."""
