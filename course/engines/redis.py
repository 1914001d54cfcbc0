"""Redis: the store that replicas of the research agent share."""

from course.engines.engine import Program

REDIS = Program(
    name="redis",
    purpose="runs that replicas share",
    get="`make engine redis` on Debian, `brew install redis` on macOS",
    programs=("redis-server",),
    tests=("04",),
    package="redis-server",
    size="10 MB of disk and a few seconds",
)
