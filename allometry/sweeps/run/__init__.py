"""Execute a sweep: place jobs on workers, follow their messages, and share the work with other processes."""
