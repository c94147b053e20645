"""The contracts service: each contract is validated, rendered and made known, step by step."""
