"""Writes src/rheos/data/emoji/captions.safetensors: MiniLM's embeddings of the emoji captions, a byte a number."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from rheos.data import load
from rheos.data.text import MiniLM

TARGET = Path(__file__).resolve().parent.parent / "src" / "rheos" / "data" / "emoji" / "captions.safetensors"


def main() -> None:
    captions = sorted(set(load("emoji").columns["caption"]))
    rows = MiniLM()(captions)
    assert isinstance(rows, torch.Tensor)
    small = (rows * (127 / rows.abs().amax(1, keepdim=True))).round().to(torch.int8)
    save_file({"embedding": small}, TARGET, metadata={"captions": "\n".join(captions), "model": "all-MiniLM-L6-v2"})
    back = torch.nn.functional.normalize(small.float(), dim=1)
    error = 1 - (back * torch.nn.functional.normalize(rows, dim=1)).sum(1).min()
    print(f"{len(captions)} captions, {TARGET.stat().st_size} bytes, largest loss of cosine {error:.2g}")


if __name__ == "__main__":
    main()
