"""What Celery runs, and what runs beside it."""
