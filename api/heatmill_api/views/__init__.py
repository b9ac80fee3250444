"""Views that belong to no job: uploads, the catalogue, health."""
