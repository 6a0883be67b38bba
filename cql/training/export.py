"""A policy as a file that runs without this package, and a model card beside it.

The graph holds all that lies between the environment's observations and its actions: normalisation, network, clamped
log standard deviation, tanh and the bounds of the actions.
"""

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch
import yaml
from torch import Tensor

from cql import config, files
from cql.algorithm import networks
from cql.commands import printable, required
from cql.rollout.envs import normalised_score
from cql.rollout.reference_scores import with_scores
from cql.training import policy as policies
from cql.training import tensor_file
from cql.training.networks import actor_of
from cql.training.provenance import spaces

Format = Literal["torchscript", "onnx", "safetensors"]
SUFFIXES: dict[Format, str] = {"torchscript": ".ts", "onnx": ".onnx", "safetensors": tensor_file.SUFFIX}
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"


class ExportError(ValueError):
    """A policy cannot be written as asked; the message says what to change."""


class Actor(torch.nn.Module):
    """A policy in the environment's units, as plain tensors and products.

    Args:
        contents: of its checkpoint, with ``spaces``.
        path: of the checkpoint, for messages.
    """

    def __init__(self, contents: Mapping[str, Any], path: Path) -> None:
        super().__init__()
        self._mlp, parameters, self._log_std = actor_of(contents, path)
        self._names = {name: f"actor_{name.replace('.', '_')}" for name in parameters}
        low, high = contents["spaces"]["action_low"], contents["spaces"]["action_high"]
        held = {"low": low, "high": high, "centre": (high + low) / 2, "half_width": (high - low) / 2}
        held |= {self._names[name]: tensor for name, tensor in parameters.items()}
        for name, tensor in {**held, **contents["normaliser"]}.items():
            self.register_buffer(name, tensor)

    def forward(self, observation: Tensor, noise: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Actions (B, A) for observations (B, S); with standard normal noise (B, A) samples, and log_std (B, A)."""
        held = self.get_buffer
        parameters = {name: held(own) for name, own in self._names.items()}
        inputs = (observation.float() - held("mean")) / held("std")
        mean, log_std = (each[0] for each in networks.actor(self._mlp, parameters, inputs[None], *self._log_std))
        if noise is not None:
            mean = mean + log_std.exp() * noise.float()
        action = (held("centre") + held("half_width") * mean.tanh()).clamp(held("low"), held("high"))
        return action if noise is None else (action, log_std)


def export(
    source: Path, form: Format, *, checkpoint: str | None = None, out: Path | None = None, sampling: bool = False
) -> list[Path]:
    """Write a policy and its model card.

    Args:
        source: what :func:`cql.load` takes.
        form: of the file.
        checkpoint: of a run's folder: ``best``, ``last`` or a step; None is the best one if there is one.
        out: the file, which must not exist; None is beside the checkpoint, where its own earlier export is replaced.
        sampling: give a graph a second input ``noise`` and a second output ``log_std``.

    Returns:
        The file and the card.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ExportError: the file exists, its folder does not, it has another suffix, or ``sampling`` has no effect.
        MissingPackageError: a package of the extra ``export`` is not installed.
    """
    path = policies.find(source, checkpoint)
    target = path.with_suffix(SUFFIXES[form]) if out is None else out
    if sampling and form == "safetensors":
        raise ExportError(f"--sampling has no effect on {form}: cql.load(FILE).act(..., sample=True) works anyway")
    if target.suffix != SUFFIXES[form]:
        raise ExportError(f"--out {target}: the name must end with {SUFFIXES[form]}")
    if not target.parent.is_dir():
        raise ExportError(f"--out {target}: the folder {target.parent} does not exist; make it first")
    if target == path or (out is not None and target.exists()):
        raise ExportError(f"{target} exists and is left as it is: choose another --out, or remove it")
    contents = policies.read(path)
    own = policies.Policy(contents, path).spaces
    contents["spaces"] = spaces(own)
    if form == "safetensors":
        encoded = tensor_file.encoded(contents)
    else:
        inputs = {"observation": torch.zeros(2, own.observation_size)}
        inputs |= {"noise": torch.zeros(2, len(own.action_low))} if sampling else {}
        encoded = _graph(Actor(contents, path), inputs, form)
    files.write_bytes(target, encoded)
    card = target.with_name(f"{target.name}.md")
    files.write_text(card, _card(contents, spaces=own, file=target.name, form=form, sampling=sampling))
    return [target, card]


def _graph(actor: Actor, inputs: Mapping[str, Tensor], form: Format) -> bytes:
    buffer, batch = io.BytesIO(), torch.export.Dim("batch")
    examples = tuple(inputs.values())
    with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, though it will be read for long
        if form == "torchscript":
            torch.jit.save(torch.jit.trace(actor, examples), buffer)  # type: ignore[no-untyped-call]
            return buffer.getvalue()
        required("onnx", "export"), required("onnxscript", "export")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of each operator of torchvision
        torch.onnx.export(
            actor,
            examples,
            input_names=list(inputs),
            output_names=["action", "log_std"][: len(inputs)],
            dynamic_shapes=({0: batch},) * len(inputs),
            dynamo=True,
            verbose=False,
        ).save(buffer)
        return buffer.getvalue()


def _card(contents: Mapping[str, Any], **context: Any) -> str:
    """The model card, in Markdown."""
    plain = contents["config"]
    data = config.dataset_label(config.from_dict(plain).dataset)  # refuses a config that is none
    reference, mean = with_scores(plain)["env"].get("reference"), contents.get("scores", {}).get("last_return")
    template = jinja2.Template(_TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True)
    return printable(
        template.render(
            **context,
            env=plain["env"],
            task=config.task_label(config.from_dict(plain)),
            data=data,
            mean=mean,
            score=None if mean is None or reference is None else normalised_score(mean, *reference),
            step=contents["step"],
            commit=contents.get("commit"),
            config=yaml.safe_dump({key: value for key, value in plain.items() if key != "logger"}, sort_keys=False),
        )
    )
