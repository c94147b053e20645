"""What the worker does: the steps of a contract's workflow, found here by Celery."""
