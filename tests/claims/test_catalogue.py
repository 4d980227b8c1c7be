from importlib import import_module
from pathlib import Path

import pytest

from rheos.claims import METHODS, method, rows
from rheos.claims.catalogue import resolves, works
from rheos.claims.checkout import root
from rheos.core.errors import CheckpointError, UnknownOptionError

CARDS = """
acflow aiflows arflow asyncflow bfm boss contextflow crossflow dfm dipo dualdiff dualfast dualparal five_bench flowchef
flowdirector flowdrive flowopt flowv2v flowvid hidream hybridflow infnet instaflow lfm mdt_dist medsegfactory mirror_sd
mogfn mosaic_sdf mt_deeponet nanoflow nautilus oneflow op_gfn packet_spraying principles reinflow reqflow rfpp
shape_for_motion slimflow solvers sparse_ot splitmeanflow stem_compression symmflow tailor3d tempflow_grpo
video_infinity videoalign videoflow wcfm worldforge
""".split()  # noqa: SIM905  one card a method
ROOMS = {"core", "nets", "sample", "train", "distill", "guide", "edit", "align", "gfn", "engine", "domains"}


def test_the_table_has_the_54_methods_once_each():
    assert len(METHODS) == 54
    assert sorted(m.slug for m in METHODS) == CARDS


def test_every_method_has_a_room_a_year_and_a_paper_of_its_own():
    assert {m.room for m in METHODS} == ROOMS
    assert all(2015 <= m.year <= 2026 for m in METHODS)
    papers = [m.paper for m in METHODS if m.slug != "solvers"]
    assert len(set(papers)) == 53
    assert all(len(m.arxiv) == 10 and m.arxiv[4] == "." for m in METHODS if m.slug != "solvers")


def test_the_rows_have_exactly_the_stable_keys_and_values():
    found = rows()
    assert [tuple(r) for r in found] == [("slug", "title", "room", "entry", "state", "verdict")] * 54
    assert {r["state"] for r in found} <= {"works", "planned"}
    assert {r["verdict"] for r in found} <= {"holds", "fails", None}


@pytest.mark.skipif(root() is None, reason="the table is held to the source tree")
@pytest.mark.parametrize("one", METHODS, ids=lambda m: m.slug)
def test_the_markers_of_the_table_agree_with_the_tree(one):
    here = root()
    assert here is not None
    claim = here / "src" / "rheos" / "claims" / f"{one.slug}.py"
    if one.tests:
        assert (here / "tests" / one.tests).is_file(), f"{one.slug} names a test file that is not there"
        assert claim.is_file(), f"{one.slug} has tests and no claim"
        assert works(one)
    else:
        assert not claim.is_file(), f"{one.slug} has a claim; name its test file in the table"


@pytest.mark.parametrize("one", [m for m in METHODS if m.tests], ids=lambda m: m.slug)
def test_what_is_read_from_the_source_is_what_python_finds(one):
    module, _, name = one.entry.partition(":")
    assert hasattr(import_module(module), name)
    assert import_module(f"rheos.claims.{one.slug}").CLAIM.slug == one.slug


def test_an_entry_that_names_nothing_does_not_resolve():
    assert resolves("rheos.sample:draw")
    assert not resolves("rheos.sample:drow")
    assert not resolves("rheos.sample.nowhere:draw")
    assert not resolves("os.path:join")


def test_verdicts_come_from_the_records(tmp_path: Path):
    (tmp_path / "wcfm.json").write_text('{"holds": false}')
    (tmp_path / "principles.json").write_text('{"holds": true}')
    verdicts = {r["slug"]: r["verdict"] for r in rows(tmp_path)}
    assert (verdicts["wcfm"], verdicts["principles"], verdicts["boss"]) == ("fails", "holds", None)


def test_a_file_that_is_no_record_is_refused_with_the_command_to_run(tmp_path: Path):
    (tmp_path / "wcfm.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"wcfm.json is no record.*rheos reproduce wcfm"):
        rows(tmp_path)


def test_an_unknown_slug_is_refused_with_near_names():
    with pytest.raises(UnknownOptionError, match=r"no method 'wcmf'; did you mean 'wcfm'.*rheos list"):
        method("wcmf")
