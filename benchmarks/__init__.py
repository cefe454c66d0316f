"""What `make bench` measures: the main path beside its rivals, in the same run."""
