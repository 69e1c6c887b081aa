"""The target `kubernetes`: pure manifests, and what applies, waits for and looks at them."""
