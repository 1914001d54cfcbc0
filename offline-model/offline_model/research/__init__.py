"""Research: plan search queries, read the results of tools, write a report with citations."""
