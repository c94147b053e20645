"""Run the test suites of Celery, Flask and Starlette with and without Mainstay, and compare."""
