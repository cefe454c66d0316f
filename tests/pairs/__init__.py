"""Random pairs of rows and of small tables: our verdict beside that of SQL's EXCEPT, both ways."""
