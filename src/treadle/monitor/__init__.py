"""Monitor: captured traffic in windows, drift, truth that comes later, quality, findings."""
