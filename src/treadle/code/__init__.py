"""From plain functions to results: fingerprint, graph, cache, execution, storage."""
