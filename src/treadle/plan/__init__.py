"""Plan: what the project wants (spec), what is stale and why, and whether to retrain."""
