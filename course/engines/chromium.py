"""Chromium: the browser in which the research agent's web page is tested."""

from course.engines.engine import Program

CHROMIUM = Program(
    name="chromium",
    purpose="the research agent's web page",
    install_hint="`make engine chromium` on Debian; Google's Chrome will do as well",
    programs=("chromium", "google-chrome", "chromium-browser"),
    tests=("04",),
    package="chromium",
    size="500 MB of disk and a minute",
)
