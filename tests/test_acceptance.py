"""The design's lines of user code, as they are written there, with fewer steps."""

from dataclasses import fields

import torch

import rheos
from rheos import core, nets, sample, train


def test_the_lines_of_the_design_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = rheos.data.load("emoji", size=16)
    field = core.Field(nets.UNet(channels=3, classes=data.classes, width=8), core.AffinePath("linear"))
    run = train.fit(
        field,
        core.FlowMatching(coupling=core.Gibbs(epsilon="auto"), times="logit-normal"),
        data,
        steps=2,
        out="runs/emoji",
        options=train.Options(batch=16, sample_every=0),
    )
    x = sample.draw(run.field, n=6, steps=2, solver="heun", label=3, guidance=2.0)
    assert x.shape == (6, 3, 16, 16)
    # the calibrated bandwidth is a number in the run, and a loaded run gives the same samples
    again = rheos.load("runs/emoji")
    assert torch.equal(sample.draw(again.field, n=6, steps=2, solver="heun", label=3, guidance=2.0), x)
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    y = data.batch(torch.arange(2)).x
    clean = rheos.guide.restore(run.field, y, operator=rheos.guide.Inpaint(mask), steps=2)
    assert torch.equal(clean[..., :8], y[..., :8])


def test_the_command_and_the_library_have_one_set_of_tour_defaults():
    from rheos.commands.tour import Options
    from rheos.tour import TourOptions

    library = {f.name: f.default for f in fields(TourOptions)}
    command = {f.name: f.default for f in fields(Options)}
    assert {k: v for k, v in command.items() if k != "json"} == {k: library[k] for k in command if k != "json"}
