"""The adapter of one department: capture what its clerks change, apply what others changed."""
