"""Training a network: data on the device, steps, optimiser, run folder, logging."""
