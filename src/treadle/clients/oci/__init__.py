"""Images where they are: registries, layout folders and archives, by the OCI specifications."""
