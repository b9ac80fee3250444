"""One word, one thing: former names do not come back, and the glossary defines what the code speaks of."""

import io
import tokenize
from pathlib import Path

from tests.test_house import files

ROOT = Path(__file__).parents[1]
SOURCES = ("shared/*.py", "api/*.py", "workers/*.py")
# Former name -> today's.
FORMER = {
    "Attributions": "MethodOutput",
    "Behind": "BoundedWriter",
    "Coalesced": "SingleFlight",
    "Committed": "CommittedTotals",
    "CrashWatch": "CrashGuard",
    "Cut": "CamLayer",
    "Explained": "Explanation",
    "Explainer": "Method",
    "HeldShard": "ShardLease",
    "MapWork": "MapJob",
    "Measured": "SelfCheck",
    "NOWHERE": "KEY_PENDING",
    "Outcome": "Result",
    "Overtaken": "StaleSnapshot",
    "Passes": "MethodCost",
    "Placed": "FeatureVector",
    "Prepared": "ReadyItem",
    "Promised": "PresignedUpload",
    "QuickObjects": "FastObjects",
    "Recalled": "CachedItem",
    "Remembered": "StackState",
    "Scene": "SegmentedImage",
    "Services": "ApiContext",
    "Shards": "ShardSet",
    "Sight": "Snapshot",
    "Trail": "PathQuadrature",
    "Unprepared": "FailedItem",
    "are_known": "is_fixed",
    "blame_noted": "suspects",
    "clear_note": "clear_mark",
    "find_cut": "find_cam_layer",
    "is_suspicious": "isolates_items",
    "job_state": "derive_state",
    "keep_up": "supervise",
    "let_go": "release_lock",
    "logits_above": "logits_from_layer",
    "note_item": "mark_in_progress",
    "open_job": "job_from_progress",
    "progress_of": "progress_from_records",
    "read_job": "load_job",
    "take_down": "shut_down",
}
WORDS = (
    *("attribution", "baseline", "catalogue", "claim", "condition", "feed", "heatmap", "item"),
    *("job", "lease", "manifest", "mend", "method", "part", "plan", "preview"),
    *("proof", "repair", "ring", "row", "shard", "sweep", "target", "tenant"),
    *("turn", "upload", "verdict", "window"),
)


def test_former_names_do_not_come_back() -> None:
    found = [
        f"{file}:{token.start[0]}: {token.string} is {FORMER[token.string]} now"
        for file in files(*SOURCES)
        for token in tokenize.generate_tokens(io.StringIO((ROOT / file).read_text("utf-8")).readline)
        if token.type == tokenize.NAME and token.string in FORMER
    ]
    assert not found


def test_the_glossary_defines_the_words_of_the_domain_in_a_sentence() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
    entries = {line.split("**")[1].lower(): line.partition("**: ")[2] for line in lines if line.startswith("- **")}
    assert [word for word in WORDS if word not in entries] == []
    assert [word for word, text in entries.items() if not text.endswith(".")] == []
    assert len(entries) == sum(line.startswith("- **") for line in lines), "no word is defined twice"
