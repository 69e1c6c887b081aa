"""Test: metrics, gates, the comparison with the champion, and the verdict."""
