"""From a plan to what deploys it: one file per target, and one source of flags for all of them."""
