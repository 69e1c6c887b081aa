"""The only place that imports outside SDKs and owns outside state."""
