"""Everything that exists only to learn."""
