import pytest
import torch

from rheos.claims import slimflow
from rheos.claims.teacher import bench, train_teacher
from rheos.nets import parameters
from rheos.sample import draw_solution

TINY = slimflow.Budget(teacher=4, pairs=64, reflow=4, distil=4, rows=40)


def test_the_student_has_about_as_many_parameters_as_the_cards_and_an_eighth_of_the_teachers_at_most():
    data = bench()
    student = slimflow.student_field(data, 0)
    assert 24_000 < parameters(student) < 26_000
    assert parameters(student) * 8 <= parameters(train_teacher(data.train, 1, 0))


def test_students_of_one_seed_begin_alike_and_leave_the_generator_alone():
    data, before = bench(), torch.random.get_rng_state()
    a, b, other = (slimflow.student_field(data, k) for k in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))


def test_a_tiny_run_measures_both_reflows_and_three_distillations(tmp_path):
    found = slimflow.Found()
    slimflow.measure(found, bench(), TINY, 0, tmp_path, lambda line: None)
    for name in (slimflow.PLAIN, slimflow.ANNEALED):
        assert found.mean(f"Fréchet distance, {name}, RK4") > 0
    one_step = [
        found.mean(f"Fréchet distance, {n}, 1 step") for n in (slimflow.SCRATCH, slimflow.ALONE, slimflow.GUIDED)
    ]
    assert len(set(one_step)) == 3
    assert found.values["network calls of the student"] == [1]
    # all three distillations stand on one annealed flow
    flows = [
        tmp_path / name / "flow" / "model.safetensors" for name in (slimflow.GUIDED, slimflow.ALONE, slimflow.SCRATCH)
    ]
    assert len({f.read_bytes() for f in flows}) == 1


@pytest.mark.parametrize("seed", [0, 3])
def test_a_student_is_called_once(seed):
    student = slimflow.student_field(bench(), seed)
    student.times = (0.0, 1.0)
    assert draw_solution(student, 2).calls == 1
