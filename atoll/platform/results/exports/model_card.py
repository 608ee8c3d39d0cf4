"""The model card of an exported model: a README as the Hugging Face hub shows it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CARD = """\
---
{front}
---

# {run}

A model trained by federated learning with Atoll: {strategy}, \
{clients} clients, data set {dataset}. These are the parameters after round {round}.

## Figures of the run

| metric | value |
|---|---|
{figures}

The metrics are those of `rounds.parquet`: `server_` is on the server's test examples, `evaluate_` \
on the clients' own.

## Use

{use}
## Where it is from

- model: `{model}`
- seed {seed}; parameters' SHA-256 `{sha256}`
- data's SHA-256 `{data_sha256}`
- versions: {versions}
"""


# Classes of `atoll.clients`, by the task's name in files.
TASK_CLASSES = {
    "classification": "Classification",
    "multi-label": "MultiLabel",
    "regression": "Regression",
    "next-token": "NextToken",
}

IMAGE_USE = """\
Images of {height} x {width} with {channels} {channel_word}, pixels in [0, 1], are normalised by \
`(pixels - mean) / std` with mean {mean} and standard deviation {std} per channel \
(`preprocessor_config.json`). The classes are in `config.json` (`id2label`).

```python
import json
from safetensors.torch import load_file
from atoll import InputFormat, PixelModel
from atoll.clients import ModelSettings, build_model

about = json.load(open("config.json"))["atoll"]
network = build_model(
    ModelSettings(**about["model"]), tuple(about["image_shape"]), len(about["classes"]), seed=0
)
network.load_state_dict(load_file("model.safetensors"))
scaling = about["preprocessing"]
inputs = InputFormat(
    tuple(about["image_shape"]), tuple(about["classes"]),
    tuple(scaling["mean"]), tuple(scaling["std"]),
)
model = PixelModel(network, inputs)
```

"""

TOKEN_USE = """\
Texts are cut to {length} tokens by `tokenizer.json` and padded with token {padding}. What is \
predicted is in `config.json` (`atoll.task`).

```python
import json
from safetensors.torch import load_file
from atoll import TokenModel
from atoll.clients import {task}, ModelSettings, TokenInputs, build_model

about = json.load(open("config.json"))["atoll"]
inputs, task = TokenInputs(**about["inputs"]), {task}(**about["task"])
network = build_model(ModelSettings(**about["model"]), inputs, task, seed=0)
network.load_state_dict(load_file("model.safetensors"))
model = TokenModel(network, inputs, task)
```
"""


def model_card(about: Mapping[str, Any]) -> str:
    """Return a model card in Markdown, with the metadata that the hub reads before it.

    Parameters
    ----------
    about : Mapping
        Metadata of an exported model.
    """
    metrics = about["metrics"]
    return CARD.format(
        front=_front_matter(about),
        run=about["run"],
        strategy=about["strategy"],
        clients=about["data"]["clients"],
        dataset=about["data"]["dataset"],
        round=about["round"],
        figures="\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items()),
        use=_use_of_images(about) if _is_of_images(about) else _use_of_texts(about),
        model=json.dumps(about["model"]),
        seed=about["seed"],
        sha256=about["parameters_sha256"],
        data_sha256=about["data_sha256"],
        versions=", ".join(f"{name} {version}" for name, version in about["versions"].items()),
    )


def _is_of_images(about: Mapping[str, Any]) -> bool:
    return bool(about["inputs"]["kind"] == "images")


def _use_of_images(about: Mapping[str, Any]) -> str:
    channels, height, width = about["image_shape"]
    scaling = about["preprocessing"]
    return IMAGE_USE.format(
        channels=channels,
        channel_word="channel" if channels == 1 else "channels",
        height=height,
        width=width,
        mean=[round(value, 6) for value in scaling["mean"]],
        std=[round(value, 6) for value in scaling["std"]],
    )


def _use_of_texts(about: Mapping[str, Any]) -> str:
    inputs = about["inputs"]
    return TOKEN_USE.format(
        length=inputs["length"],
        padding=inputs["padding"],
        task=TASK_CLASSES[about["task"]["kind"]],
    )


def _front_matter(about: Mapping[str, Any]) -> str:
    """Return YAML; texts are written as JSON, which YAML reads."""
    is_next = about["task"]["kind"] == "next-token"
    of_texts = "text-generation" if is_next else "text-classification"
    pipeline = "image-classification" if _is_of_images(about) else of_texts
    lines = [
        "library_name: atoll",
        f"pipeline_tag: {pipeline}",
        "tags:",
        "- federated-learning",
        f"- {json.dumps(about['strategy'])}",
    ]
    accuracy = about["metrics"].get("server_accuracy")
    if accuracy is not None:
        dataset = json.dumps(about["data"]["dataset"])
        lines += [
            "model-index:",
            f"- name: {json.dumps(about['run'])}",
            "  results:",
            f"  - task: {{type: {pipeline}}}",
            f"    dataset: {{name: {dataset}, type: {dataset}}}",
            f"    metrics: [{{type: accuracy, value: {accuracy:.6f}}}]",
        ]
    return "\n".join(lines)
