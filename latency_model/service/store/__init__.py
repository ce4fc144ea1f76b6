"""The service's database: environments, rows, runs, jobs and tokens, in SQLite or PostgreSQL."""

__all__: list[str] = []
