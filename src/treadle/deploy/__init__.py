"""Targets that a release is rolled out to: a supervised process on this machine, batch scoring."""
