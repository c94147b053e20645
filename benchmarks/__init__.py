"""What does the chassis cost beside what people use without it? Run with ``make bench``."""
