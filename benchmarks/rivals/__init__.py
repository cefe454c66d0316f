"""What the bus is compared with: the plainest programs that do the same, each a process."""
