"""Targets that a release is rolled out to: a supervised process, containers, a cluster."""
