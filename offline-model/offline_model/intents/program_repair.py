"""Program repair: propose a change of one line of a listed function that fails its tests, as JSON.

The request lists numbered source below `File: NAME`, the output of the failing tests, and the proposals
that failed. Its response format has the fields of a proposal: `file`, `line`, `replacement`, `reason`. The
first three are null when no proposal is left.
"""

import json
import re

from offline_model.conversation import Conversation, Reply
from offline_model.repair.listings import Listing, failed_proposals_in, frames_in, listings_in
from offline_model.repair.mutations import Mutation, mutations_of
from offline_model.repair.suspicion import ranked

ORDER = 35

FIELDS = {"file", "line", "replacement"}
STRATEGY = re.compile(r"^Strategy:(.*)$", re.MULTILINE)


def reply(conversation: Conversation) -> Reply | None:
    schema = conversation.response_schema or {}
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties.keys() >= FIELDS:
        return None
    text = "\n".join(turn.text for turn in conversation.turns if turn.role == "user")
    listings = listings_in(text)
    if not listings:
        return None
    proposal = propose(text, listings, conversation.seed)
    return Reply(json.dumps({name: proposal.get(name) for name in properties}, ensure_ascii=False))


def propose(text: str, listings: list[Listing], seed: int) -> dict[str, str | int | None]:
    """The best mutation that has not failed; null fields and a reason when none is left."""
    failed = failed_proposals_in(text)
    candidates: list[tuple[Listing, Mutation]] = [
        (listing, mutation)
        for listing in listings
        for mutation in mutations_of(listing.lines, listing.start)
        if (listing.file, mutation.line, mutation.replacement.rstrip()) not in failed
    ]
    strategy = STRATEGY.search(text)
    best = ranked(candidates, text, frames_in(text), strategy[1] if strategy else "", seed)
    if not best:
        names = ", ".join(dict.fromkeys(listing.file for listing in listings))
        kinds = "I change operators, bounds, conditions, names and returns"
        reason = f"I know no other change of one line in {names}: {kinds}."
        return {"file": None, "line": None, "replacement": None, "reason": reason}
    listing, mutation = best[0]
    return {
        "file": listing.file,
        "line": mutation.line,
        "replacement": mutation.replacement,
        "reason": f"Line {mutation.line}, {mutation.kind}: {mutation.change}",
    }
