"""What becomes of streams when three servers get SIGTERM? `python bench/shutdown_versus.py`, 20 s."""

from rich.console import Console

from bench.records import measured, save
from course.versus import DELAY_SECONDS, DRAIN_SECONDS, GRACE_SECONDS, STATES, STREAMS_PER_LENGTH, versus


def main() -> None:
    all_ = versus(Console())
    how = (
        f"one run of make versus-03: {STREAMS_PER_LENGTH} streams of 3 s and {STREAMS_PER_LENGTH} of 8 s on "
        f"each server, SIGTERM after a second; a delay of {DELAY_SECONDS} s, a drain of {DRAIN_SECONDS} s, "
        f"SIGKILL after {GRACE_SECONDS} s"
    )
    save(
        "shutdown_versus",
        {
            "title": "SIGTERM with twenty streams in flight: how they ended",
            "kind": "bars",
            "alt": "How many of twenty streams finished, ended with an error event or were cut off, in a "
            "server whose own handler swallows SIGTERM, in plain uvicorn, and in lesson 03.",
            "measured": measured(how, "uvicorn", "fastapi"),
            "values": {
                f"{name}_{what}": value
                for name, one in zip(("swallowed", "plain", "lesson"), all_, strict=True)
                for what, value in (("exit_code", one.exit_code), ("seconds", round(one.seconds or 0, 1)))
            },
            "unit": "streams",
            "groups": [f"{one.name}: exit code {one.exit_code} after {one.seconds:.1f} s" for one in all_],
            "series": [{"name": state, "values": [one.count(state) for one in all_]} for state in STATES[1:]],
        },
    )


if __name__ == "__main__":
    main()
