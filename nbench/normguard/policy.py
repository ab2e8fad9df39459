"""The model in training and everything it is compared with, over one transformer: policy, old, anchor, ema, reference.

With LoRA each role is a named adapter and the reference is the base with adapters off, so no role costs a second copy
of the weights. With full fine-tuning each role is a frozen copy of the transformer. Transformers may be sharded over
processes; adapters never are.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from nbench.errors import UsageError
from nbench.flow.family import ModelView
from nbench.flow.model import Conditioning
from nbench.normguard.config import ModelConfig
from nbench.normguard.sharding import kept, placed_as, whole_state

if TYPE_CHECKING:
    from nbench.flow.family import DiffusersFlowModel

#: policy: trained. old: samples NFT's rollouts, or holds AWM's weights of an epoch's start. anchor: AWM's slow
#: average. ema: evaluated and saved. reference: the frozen base.
Role = Literal["policy", "old", "anchor", "ema", "reference"]

_ATTENTION = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"),
    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
)
_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")

#: family -> (rank, alpha, targets) of the public training codes: yifan123/flow_grpo (SD3.5-M, FLUX.1-dev)
LORA_DEFAULTS: Mapping[str, tuple[int, float, tuple[str, ...]]] = {
    "sd3": (32, 64.0, _ATTENTION),
    "flux": (64, 128.0, _ATTENTION + _FEED_FORWARD),
}


class RoleView(ModelView):
    """A role as a `FlowModel`: the shared model with that role's weights in."""

    def __init__(self, policy: Policy, role: Role) -> None:
        super().__init__(policy.model)
        self.policy = policy
        self.role: Role = role

    def velocity(self, x: Tensor, sigma: Tensor, cond: Conditioning, *, guidance: float) -> Tensor:
        """The role's guided velocity; differentiable for the policy."""
        with self.policy.use(self.role):
            return self.model.velocity(x, sigma, cond, guidance=guidance)


class Policy:
    """Puts trainable weights into a loaded base and switches between roles.

    Outside `use` the policy's weights are in, so that a backward pass with gradient checkpointing recomputes with them.

    Attributes:
        model: the loaded base.
        roles: those that have weights of their own, "policy" first.
        tuning: "lora" or "full".
        sharded: whether the roles' own weights are spread over processes, so that reading them is a collective.
    """

    def __init__(
        self,
        model: DiffusersFlowModel,
        config: ModelConfig,
        roles: Sequence[Role],
        *,
        seed: int,
        shard: Callable[[torch.nn.Module, Collection[torch.nn.Parameter]], None] | None = None,
    ) -> None:
        """Add the roles' weights; all start as the policy, which starts as the base.

        Args:
            model: a base without a LoRA.
            config: how to tune it.
            roles: besides the policy and the reference.
            seed: of the adapters' random half.
            shard: called with each transformer, and with those of its weights that stay whole; leaves this process its
                part of the others. None keeps all of them.

        Raises:
            UsageError: the LoRA's targets match no layer, or the family has no defaults for them.
        """
        self.model = model
        self.tuning = config.tuning
        self.roles: tuple[Role, ...] = ("policy", *roles)
        self._class = type(model.transformer)  # sharding changes it
        model.transformer.requires_grad_(False)
        if self.tuning == "lora":
            self._scale = self._add_adapters(config, seed)
        else:
            self._copies: dict[Role, torch.nn.Module] = {}
            for role in ("reference", *roles):
                self._copies[role] = copy.deepcopy(model.transformer)
                if shard is not None:  # each at once, so that never more than two are whole
                    shard(self._copies[role], ())
            model.transformer.requires_grad_(True)
        if config.gradient_checkpointing:
            model.transformer.enable_gradient_checkpointing()
        if shard is not None:
            adapters = [tensor for role in self.roles for tensor in self.tensors(role).values()]
            shard(model.transformer, adapters if self.tuning == "lora" else ())
        self.sharded = shard is not None and self.tuning == "full"
        self.check()

    def _add_adapters(self, config: ModelConfig, seed: int) -> float:
        from peft import LoraConfig as PeftLora
        from peft.tuners.tuners_utils import BaseTunerLayer

        model = self.model
        rank, alpha, targets = config.lora.rank, config.lora.alpha, config.lora.targets
        known = LORA_DEFAULTS.get(model.family)
        if known is None and (rank is None or targets is None):
            raise UsageError(f"family {model.family!r} has no LoRA defaults: give model.lora.rank, alpha and targets.")
        if known is not None:
            rank, targets = rank or known[0], targets or known[2]
            alpha = alpha or (known[1] if rank == known[0] else 2.0 * rank)
        assert rank is not None and targets is not None
        settings = PeftLora(
            r=rank, lora_alpha=alpha or rank, target_modules=list(targets), init_lora_weights="gaussian"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for role in self.roles:
                try:
                    with warnings.catch_warnings():  # peft warns of a second adapter, which is meant here
                        warnings.simplefilter("ignore", UserWarning)
                        model.transformer.add_adapter(settings, adapter_name=role)
                except ValueError as error:
                    raise UsageError(
                        f"model.lora.targets {list(targets)} match no layer of this {type(model.transformer).__name__}."
                    ) from error
        self._layers = [module for module in model.transformer.modules() if isinstance(module, BaseTunerLayer)]
        self._names = {
            id(module): name for name, module in model.transformer.named_modules() if isinstance(module, BaseTunerLayer)
        }
        model.transformer.requires_grad_(False)
        for role in self.roles:
            for tensor in self.tensors(role).values():
                tensor.data = tensor.data.float()
                tensor.requires_grad_(role == "policy")
        for role in self.roles[1:]:
            self.blend(role, 0.0)
        self._activate("policy")
        model.transformer.eval()
        return float(settings.lora_alpha) / rank

    def view(self, role: Role) -> RoleView:
        """The role as a `FlowModel`."""
        return RoleView(self, role)

    @contextmanager
    def use(self, role: Role) -> Iterator[None]:
        """Inside, the model has the role's weights.

        Only flags of the adapter layers are flipped: peft's own switch also resets which parameters get gradients.
        """
        self._activate(role)
        try:
            yield
        finally:
            self._activate("policy")

    def _activate(self, role: Role) -> None:
        if self.tuning == "full":
            self.model.transformer = self.model.pipeline.transformer if role == "policy" else self._copies[role]
            return
        for layer in self._layers:
            layer._disable_adapters = role == "reference"
            if role != "reference":
                layer._active_adapter = [role]

    def tensors(self, role: Role) -> dict[str, torch.nn.Parameter]:
        """The role's own weights by name, the same names for every role; of LoRAs "<layer>.lora_A" and "...lora_B"."""
        if self.tuning == "full":
            module = self.model.pipeline.transformer if role == "policy" else self._copies[role]
            return dict(module.named_parameters())
        found = {}
        for layer in self._layers:
            name = self._names[id(layer)]
            found[f"{name}.lora_A"] = layer.lora_A[role].weight
            found[f"{name}.lora_B"] = layer.lora_B[role].weight
        return found

    @torch.no_grad()
    def blend(self, role: Role, decay: float) -> None:
        """theta_role <- decay theta_role + (1 - decay) theta_policy; decay 0 copies."""
        source = self.tensors("policy")
        for name, tensor in self.tensors(role).items():
            if decay == 0:
                tensor.copy_(source[name])
            else:
                tensor.mul_(decay).add_(source[name], alpha=1 - decay)

    @torch.no_grad()
    def load(self, role: Role, state: Mapping[str, Tensor]) -> None:
        """Put saved weights into a role; `state` as `tensors` names them.

        Raises:
            UsageError: names or shapes differ.
        """
        tensors = self.tensors(role)
        if state.keys() != tensors.keys() or any(state[name].shape != tensors[name].shape for name in tensors):
            raise UsageError(f"the saved weights of {role!r} do not fit this model: was its LoRA changed?")
        for name, tensor in tensors.items():
            tensor.copy_(placed_as(tensor, state[name]))

    def whole(self, role: Role, *, keep: bool = True) -> dict[str, Tensor]:
        """Copies of a role's own weights on the CPU, as `tensors` names them; a collective where they are sharded.

        Args:
            role: whose.
            keep: whether this process wants them; the others get an empty dictionary.
        """
        return kept(self.tensors(role), keep=keep)

    @contextmanager
    def in_model_dtype(self) -> Iterator[None]:
        """Inside, adapters have the dtype that they take on once they are saved and loaded; not for training."""
        if self.tuning == "full" or self.model.dtype == torch.float32:
            yield
            return
        kept = {role: {name: t.data for name, t in self.tensors(role).items()} for role in self.roles}
        for role in self.roles:
            for tensor in self.tensors(role).values():
                tensor.data = tensor.data.to(self.model.dtype)
        try:
            yield
        finally:
            for role, tensors in kept.items():
                for name, tensor in self.tensors(role).items():
                    tensor.data = tensors[name]

    def check(self) -> None:
        """Assert that exactly the policy's weights get gradients; cheap, called once per epoch."""
        trained = {id(tensor) for tensor in self.tensors("policy").values()}
        found = {id(p) for p in self.model.pipeline.transformer.parameters() if p.requires_grad}
        assert found == trained, f"{len(found)} parameters get gradients, {len(trained)} are the policy's"

    def save(self, role: Role, folder: Path, *, write: bool = True) -> Path:
        """Write a role as `nbench run` and plain diffusers load it: a LoRA file, or a whole pipeline for full tuning.

        The LoRA's alpha / rank is multiplied into its B matrices, so that readers which know no alpha get it right.

        Args:
            role: which.
            folder: where.
            write: whether this process writes; where weights are sharded all processes must come here, and one writes.

        Returns:
            What `--checkpoint NAME=BASE+...` (LoRA) or `NAME=...` (full) takes.
        """
        if self.tuning == "full":
            return self._save_full(role, folder, write=write)
        file = folder / "pytorch_lora_weights.safetensors"
        if not write:
            return file
        folder.mkdir(parents=True, exist_ok=True)
        state: dict[str, Tensor] = {}
        for name, tensor in self.tensors(role).items():
            value = tensor.detach().float().cpu().clone()
            state[f"{name}.weight"] = value * self._scale if name.endswith("lora_B") else value
        type(self.model.pipeline).save_lora_weights(folder, transformer_lora_layers=state, safe_serialization=True)
        return file

    def _save_full(self, role: Role, folder: Path, *, write: bool) -> Path:
        model, pipeline = self.model, self.model.pipeline
        present = pipeline.transformer
        written = present if role == "policy" else self._copies[role]
        if self.sharded:
            written = self._gathered(written, keep=write)
        if not write:
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        pipeline.transformer = written
        try:
            pipeline.save_pretrained(folder, safe_serialization=True)
        finally:
            pipeline.transformer = present
        for path in folder.rglob("*.json"):  # configs name the folder that they were loaded from
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        defaults = {
            "guidance": model.default_guidance,
            "max_sequence_length": model.max_sequence_length,
            "resolution": list(model.resolution),
        }
        (folder / "nbench.json").write_text(json.dumps(defaults, indent=2) + "\n", encoding="utf-8")
        return folder

    def _gathered(self, transformer: Any, *, keep: bool) -> torch.nn.Module | None:
        """A whole copy of a sharded transformer, on the CPU; None where this process does not want it."""
        state = whole_state(transformer, keep=keep)
        if not keep:
            return None
        with torch.device("meta"):
            copied: torch.nn.Module = self._class.from_config(transformer.config)
        copied.load_state_dict(state, assign=True)
        return copied
