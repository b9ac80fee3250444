"""A job's map: features, points, a picture."""
