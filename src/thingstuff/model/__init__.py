"""Images in, predictions out: the network and the fusion of its two branches."""
