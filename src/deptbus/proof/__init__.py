"""Pure core of proving two copies equal: what stands for a row, sums that find where rows differ, a
sketch that names them, a root that binds them, and the certificate of all that.

Nobody here reads a clock, a bus or a database; both sides of a comparison call the same functions.
"""
