"""`python -m parallel_agents`: the command line."""

from parallel_agents.cli import main

if __name__ == "__main__":
    main()
