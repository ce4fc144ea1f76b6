"""The service's database: environments, rows, runs, jobs and tokens, in SQLite or PostgreSQL."""
