"""Records, spec sections, digest, clock, errors, settings and log: what every phase may import."""
