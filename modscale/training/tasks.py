"""The tasks of a full training by their names in the settings."""

from __future__ import annotations

from modscale.training.classification import Classification
from modscale.training.segmentation import Segmentation

TASKS: dict[str, type[Classification | Segmentation]] = {
    "classification": Classification,
    "segmentation": Segmentation,
}
