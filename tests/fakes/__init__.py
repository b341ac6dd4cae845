"""Real processes for tests: an exchange, a feed, a web server, the whole stack."""

MADE_BY_MIGRATE = frozenset({"django_migrations", "django_content_type", "auth_permission"})
"""Collections that Django fills when it migrates: they stay when a test's documents are removed."""
