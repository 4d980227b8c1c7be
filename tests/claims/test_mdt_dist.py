from rheos.claims import mdt_dist


def test_a_short_run_measures_all_students_from_one_teacher():
    found = mdt_dist.measure(before=2, steps=4, more=2, rows=64, seeds=(0,), progress=lambda line: None)
    continued = [f"velocity matching, {name}" for name in mdt_dist.MORE]
    names = [mdt_dist.TEACHER, mdt_dist.CONSISTENCY, mdt_dist.HALVING, mdt_dist.MATCHING, *continued]
    assert list(found.distances) == names
    assert all(by.keys() == {1, 2} and len(by[1]) == 1 for by in found.distances.values())
    assert min(found.once(mdt_dist.TEACHER)) > 0


def test_the_shares_of_distillation_are_the_cards():
    assert list(mdt_dist.MORE.values()) == [0.0, 0.1, 1.0]
    assert mdt_dist.DELTA == 0.02
