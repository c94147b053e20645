"""What the contracts service answers over HTTP."""
