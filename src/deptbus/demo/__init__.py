"""The demonstration: a county of synthetic departments, its clerks, and the referee."""
