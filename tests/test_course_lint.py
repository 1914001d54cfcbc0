"""Lint: an import without a declaration, and a declaration without a lower bound, are findings."""

from pathlib import Path

import pytest

from course.lint.imports import GROUPS, undeclared_imports

PYPROJECT = """
[dependency-groups]
scripts = ["httpx2>=2"]
research-agent = ["PyYAML>=6"]
lessons = [{ include-group = "scripts" }]
dev = [{ include-group = "lessons" }]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A course that declares little and imports nothing yet."""
    others = {group for group in GROUPS.values() if f"\n{group} = " not in PYPROJECT}
    empty = "".join(f"{group} = []\n" for group in sorted(others))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT + empty)
    for folder in GROUPS:
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_every_import_of_the_course_is_declared() -> None:
    assert undeclared_imports() == []


def test_an_import_that_the_folders_group_does_not_declare_is_a_finding(project: Path) -> None:
    (project / "code/agent.py").write_text("import httpx2\nimport yaml\n")
    assert undeclared_imports(project) == [
        "code/agent.py: imports yaml, and the group scripts does not declare pyyaml"
    ]


def test_a_group_declares_what_the_groups_in_it_declare(project: Path) -> None:
    (project / "tests/test_agent.py").write_text("def test() -> None:\n    import httpx2.something\n")
    assert undeclared_imports(project) == []


def test_the_standard_library_and_the_courses_own_modules_need_no_declaration(project: Path) -> None:
    (project / "course/machine.py").write_text(
        "import json\nfrom course import helper\nfrom . import other\n"
    )
    assert undeclared_imports(project) == []


def test_a_declaration_without_a_lower_bound_is_a_finding(project: Path) -> None:
    path = project / "pyproject.toml"
    path.write_text(path.read_text().replace("httpx2>=2", "httpx2"))
    assert undeclared_imports(project) == ["pyproject.toml: httpx2 in the group scripts has no lower bound"]
