"""Jobs in, heatmaps out."""
