"""The service that the scenarios fall upon: its effects are rows of a table without constraints."""
