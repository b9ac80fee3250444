"""The methods, one file each, and their contract."""
