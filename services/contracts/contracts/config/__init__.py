"""What the contracts service can be told from outside, and the queues that it has."""
