"""Laws of the gap between test and training loss, and of the time to generalise."""
