"""A model over HTTP: the endpoint, its client and the limits on what strangers send."""
