"""Run every check on an image or a URL, and print the findings."""

from collections.abc import Collection, Iterable, Iterator

from course.audit.checks import CHECKS, Finding, run_check
from course.audit.targets import DEFAULT_CONTRACT, Contract, Target, network_for

MARKS = {"passed": "✓", "failed": "✗", "advice": "!", "not checked": "?"}


def examine(name: str, contract: Contract = DEFAULT_CONTRACT) -> Iterator[Finding]:
    """Run every check on an image or a URL."""
    with network_for(name) as network, Target(name, network, contract) as target:
        for each in CHECKS:
            yield run_check(each, target)


def faults(found: Iterable[Finding]) -> dict[str, str]:
    """The failed checks, each with its sentence."""
    return {each.check.name: each.sentence for each in found if each.result == "failed"}


def report(name: str, found: Iterable[Finding], known: Collection[str] | None = None) -> int:
    """Print the findings; returns the exit code.

    In an audit (`known` is None) advice is no failure. For an image whose faults are `known`, every other
    fault or advice is a failure, and so is a known fault that is gone.
    """
    print(f"\n{name}")
    failed = advised = not_checked = 0
    for each in found:
        bad, expected = each.result in ("failed", "advice"), each.check.name in (known or ())
        wrong = each.result == "failed" if known is None else bad != expected and each.result != "not checked"
        failed += wrong
        advised += each.result == "advice" and not wrong and not expected
        not_checked += each.result == "not checked"
        print(f"{'–' if expected and bad else MARKS[each.result]} {each.check.claim}", flush=True)
        if each.sentence:
            print(f"    {'not checked: ' if each.result == 'not checked' else ''}{each.sentence}")
        if wrong and expected:
            print("    No longer a known fault.")
        elif bad and not expected:
            print(f"    {'Advice' if not wrong else 'How to fix it'}: docs/{each.check.page}")
    summary = [f"{failed} of {len(CHECKS)} checks failed" if failed else "Nothing failed"]
    summary += [f"{advised} with advice"] * bool(advised) + [f"{not_checked} not checked"] * bool(not_checked)
    print(f"{', '.join(summary)}.")
    if known:
        print("– marks a known fault, which the Dockerfile lists in its first lines.")
    return 1 if failed else 0
