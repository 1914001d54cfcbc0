"""Where runs are stored: in memory for one process, in Redis for many replicas."""
