"""What a service holds open: a database, a cache, a broker; each technology has its room."""
