"""The tables of the contracts service; they never leave it: see route/schemas.py for what does."""
