"""What hides parts of a photo, and what is made of the answers."""
