"""Runs: started here, followed from any replica, taken over when a replica ends before its runs do."""
