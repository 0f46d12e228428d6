"""The viewer's page with the model inside: one HTML file that needs no server and no network."""
