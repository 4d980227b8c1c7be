"""A run's README: what it is, in a page that people and hubs read."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["card"]


def card(config: Mapping[str, Any], step: int, lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: data, network, objective, seed, size, last figures, and the line that loads it.

    Args:
        config: As in config.json.
        step: Completed steps.
        lines: Figures on the way.
    """
    data, options = config["data"], config["options"]
    field = config["field"]
    last = ", ".join(f"{k} {v:.4g}" for k, v in lines[-1].items() if k != "step" and v is not None) if lines else "–"
    rows = [
        (
            "data",
            f"{data['name']}, {data['rows']:,} rows of shape {tuple(data['shape'])}",
        ),
        ("classes", len(data["class_names"]) or "none"),
        ("data fingerprint", data["fingerprint"]),
        ("network", f"{_kind(field.get('net', field))}, {config['parameters']:,} parameters"),
        (
            "path, prediction",
            f"{_kind(field['path'])}, {field['predicts']}" if {"path", "predicts"} <= field.keys() else "its own",
        ),
        ("objective", _kind(config["objective"])),
        ("steps x batch", f"{step:,} of {config['steps']:,} x {options['batch']}"),
        ("average of weights", f"{options['ema']}" if options["ema"] else "none"),
        ("sampled by", _way(config.get("sampling") or {})),
        ("seed", options["seed"]),
        ("last figures", last),
        (
            "made with",
            f"rheos {config['rheos']}, torch {config['torch']}, {config['processes']} process(es), {config['device']}",
        ),
    ]
    use = f"x = run.draw(16{_condition(config)})"
    if _kind(config["objective"]) == "Autoencoding":
        use = "codec = train.codec_of(run)  # no flow: encode and decode with it"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value != "")
    return (
        f"---\nlibrary_name: rheos\ntags: [flow-matching]\n---\n\n# A flow of {data['name']}\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        "The weights carry no licence of their own; that of the data applies to what was learned from them.\n\n"
        "```python\nfrom rheos import train\n\n"
        f'run = train.load("this/folder")\n{use}\n```\n'
    )


def _way(way: Mapping[str, Any]) -> str:
    """The steps and the solver that it was made for; empty where it was made for none."""
    steps, solver = way.get("steps"), way.get("solver")
    told = f"{steps} step{'s' if steps > 1 else ''}" if steps else ""
    return " of ".join(part for part in (told, solver) if part)


def _condition(config: Mapping[str, Any]) -> str:
    """What a sample has to be given besides its number."""
    objective = config["objective"] if isinstance(config["objective"], Mapping) else {}
    if config["data"]["spec"].get("embed"):
        return ', caption="..."'
    if _kind(objective) in ("CrossFlow", "SymmFlow"):
        return f", {objective.get('source', objective.get('column'))}=..."
    return ""


def _kind(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return str(value.get("class", value["kind"]))
