"""One file per method; the file name is the method's public name. See `heatmill_workers.explainer`."""
