"""`python -m course`: the commands behind the Makefile."""

from course.cli import main

if __name__ == "__main__":
    main()
