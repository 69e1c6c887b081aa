"""Data sets: sources, snapshots, frames, checks, profiles and differences."""
