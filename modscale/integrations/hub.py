"""A network that is saved, loaded and pushed to a hub by huggingface_hub's own mixin; only this module knows it.

>>> from modscale.integrations.hub import HubEfficientMod
>>> network = HubEfficientMod.from_pretrained("trained")         # a folder of `train`, `export` or `save_pretrained`
>>> network.push_to_hub("somebody/pets")                         # or `HubEfficientMod.from_pretrained("somebody/pets")`

What is saved is a folder that every command of modscale takes as MODEL: `spec.yaml` and `model.safetensors`, beside
`config.json` with what the network must be fed, and a card. Nothing of a hub's is executed: YAML, JSON and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download

from modscale.api.known_facts import check_facts, facts_of, find_facts
from modscale.deploy.facts import Facts, metadata, untrained_facts
from modscale.errors import CheckpointError, naming_file
from modscale.files import write_whole
from modscale.kinds import SPEC_FILE, WEIGHTS_FILES, weights_in
from modscale.models.checkpoint import load_weights, save_weights
from modscale.models.efficientmod import EfficientMod
from modscale.specs.spec import ModelSpec, load_spec, spec_to_yaml

CONFIG_FILE = "config.json"
"""The mixin's own name for it."""
CARD = """---
{{ card_data }}
---

# EfficientMod, by modscale

```python
from modscale.integrations.hub import HubEfficientMod

network = HubEfficientMod.from_pretrained("this repository").eval()
```

Or download the folder and give it to any of modscale's commands as MODEL: `modscale export FOLDER --out onnx`, say.
`config.json` says what the network takes (`input_size`, `mean`, `std`, `resize`) and what its logits mean (`classes`).
Paper: {{ paper_url }}
"""


class HubEfficientMod(
    ModelHubMixin,
    EfficientMod,
    library_name="modscale",
    tags=["image-classification", "efficientmod"],
    paper_url="https://arxiv.org/abs/2403.19963",
    model_card_template=CARD,
):
    """An EfficientMod with `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    def __init__(self, spec: ModelSpec, facts: Facts | None = None, *, trained: bool = True) -> None:
        super().__init__(spec)
        self.spec = spec
        self.facts = facts or untrained_facts(spec)
        self.trained = trained

    def _save_pretrained(self, save_directory: Path) -> None:
        """Writes spec, weights and what the network must be fed, each whole or not at all.

        Raises:
            InputError: the folder cannot be written.
            CheckpointError: the network is not its spec's any more: it was pruned, or has another head.
        """
        wanted, state = EfficientMod(self.spec).state_dict(), self.state_dict()
        changed = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
        if changed:
            raise CheckpointError("is not as its spec says any more, and could not be loaded again", place=changed[0])
        config = metadata(self.spec, self.facts, folded=False)
        del config["spec"]  # it has a file of its own, and the mixin would take the key for an argument
        save_weights(self, save_directory / WEIGHTS_FILES[0], trained=self.trained)
        write_whole(save_directory / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
        write_whole(save_directory / SPEC_FILE, spec_to_yaml(self.spec))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, config: Mapping[str, Any] | None = None, **options: Any
    ) -> HubEfficientMod:
        """From a folder, or a hub's repository of this name.

        Raises:
            InputError: the spec or what stands in `config.json` is broken, or not of one network.
            CheckpointError: there are no weights, or they do not fit.
        """
        folder = Path(model_id)
        if folder.is_dir():
            weights = weights_in(folder)
        else:
            fetched = [hf_hub_download(model_id, name, **options) for name in (SPEC_FILE, WEIGHTS_FILES[0])]
            folder, weights = Path(fetched[0]).parent, Path(fetched[1])
        spec = load_spec(folder / SPEC_FILE)
        if weights is None:
            raise CheckpointError(f"has no weights ({' or '.join(WEIGHTS_FILES)})", file=folder)
        if config is None:
            facts = find_facts(weights, spec)
        else:
            with naming_file(folder / CONFIG_FILE):
                facts = check_facts(facts_of(config), spec)
        network = cls(spec, facts)
        network.trained = load_weights(network, weights).trained
        return network.eval()
