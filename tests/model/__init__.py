"""A small model of the whole path of a change, run under random schedules.

Logs and databases are dicts and lists here; every decision is the product's own: its pure functions
judge, route, fold, decide and derive jobs. Processes are coroutines that a scheduler steps, kills
and freezes at any point between two acts of I/O. `world.explore(seed)` is one schedule.
"""
