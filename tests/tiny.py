"""A study whose trials take a fraction of a second: a model file of its own, and a study file."""

import textwrap
from pathlib import Path

MODEL = textwrap.dedent("""
    from torch import nn

    def build(classes):
        return nn.Sequential(
            nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, classes)
        )
""")


def write_tiny(folder: Path, study: str) -> Path:
    """Write the model as tiny.py and a study file next to it; return the study file's path."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.py").write_text(MODEL)
    (folder / "study.toml").write_text(textwrap.dedent(study))
    return folder / "study.toml"
