"""What a job made: rows, heatmaps, its map."""
