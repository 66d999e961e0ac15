"""Parameter-efficient ways to tune through PEFT: LoRA, DoRA, (IA)^3 and soft prompts. The encoder's own weights stay as they are.

PEFT builds and saves the small parts; the encoder runs them as it runs any other module in their places.
"""

from __future__ import annotations

import inspect
import json
import re
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tunesmith.errors import ModelError, UsageError, did_you_mean, listing, setting
from tunesmith.model import places
from tunesmith.model.adapted import Adapter, digest_of_base
from tunesmith.model.heads import CheckpointHead, CheckpointMaskedHead, CheckpointTokenHead, TextModel
from tunesmith.model.hub import quiet
from tunesmith.model.pretrained import position_limit
from tunesmith.model.soft_prompts import put_before, put_prefix
from tunesmith.model.tuning import Strategy
from tunesmith.seeds import seed_for

PROMPTS = ("prompt", "ptuning", "prefix")


class Beside(Strategy):
    """The encoder stays as it is; something small beside it is trained, and saved apart from it unless it can be merged."""

    can_merge = False

    def prepare(self, model: TextModel) -> None:
        """Freeze the encoder and put what is trained into it. Raises `ModelError` or `UsageError` where that cannot be."""
        if isinstance(model.head, CheckpointMaskedHead) and not (self.can_merge and self.config.merge and not self.config.from_scratch):
            what = f"{setting('tuning', self.name)}{' with ' + setting('merge', False) if self.can_merge else ''}"
            told = setting("tuning", "lora")
            if self.config.from_scratch:
                what, told = f"{setting('tuning', self.name)} with {setting('from_scratch', True)}", setting("tuning", "full")
            raise UsageError(f"{what} leaves the encoder as it is, but masked-lm is to change it. Take {told}.")
        if model.base is None and not (self.can_merge and self.config.merge):
            raise UsageError(
                f"{setting('tuning', self.name)} cannot go on from a trained model: what it trains is saved without an encoder, and "
                f"that of this model is nowhere else. Take {setting('tuning', 'lora')}, merged, or another way."
            )
        if model.apart:
            merge_adapter(model)
        self.digest = digest_of_base(model.encoder)
        model.encoder.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for(self.config.seed, "adapter"))
            self.attach(model)
        model.encoder.changed()

    @abstractmethod
    def attach(self, model: TextModel) -> None:
        """Put what is trained into the encoder, and mark it and the head as trained."""


class Peft(Beside):
    """A way that PEFT has."""

    @abstractmethod
    def peft_config(self, model: TextModel) -> Any:
        """Return PEFT's configuration, without task and head."""

    def attach(self, model: TextModel) -> None:
        """Put PEFT's modules into the encoder."""
        import peft

        config = self.peft_config(model)
        config.task_type, config.modules_to_save = task_type(model), modules_of_head(model)
        with quiet():
            self.peft = peft.get_peft_model(model.encoder.hf, config)
        _drop_originals(model.encoder.hf)
        if isinstance(model.head, CheckpointMaskedHead):
            body = {id(parameter) for parameter in model.encoder.base.parameters()}
            for parameter in model.encoder.hf.parameters():
                if id(parameter) not in body:
                    parameter.requires_grad_(True)

    def runs_in_peft(self, model: TextModel) -> bool:
        """Whether PEFT, too, can run what it saved."""
        return True

    def finish(self, model: TextModel) -> None:
        """Take out what was trained, and add it to the encoder's weights where that is wanted and possible."""
        import peft

        merged = self.can_merge and self.config.merge
        # PEFT's files have no place for the bias of a fresh head that guesses words
        nowhere = isinstance(model.head, CheckpointMaskedHead) and model.encoder.fresh_head
        if model.base is not None and not nowhere:
            with quiet():
                state = peft.get_peft_model_state_dict(self.peft, save_embedding_layers=False)
            config = self.peft.peft_config["default"]
            content = {**config.to_dict(), "inference_mode": True}
            if config.task_type is None:
                hf = model.encoder.hf
                content["auto_mapping"] = {"base_model_class": type(hf).__name__, "parent_library": type(hf).__module__}
            plain = json.loads(json.dumps(content, default=sorted))
            tensors = {name: value.detach().clone() for name, value in state.items()}
            model.adapter = Adapter(self.name, tensors, plain, model.base, self.digest, merged, in_peft=self.runs_in_peft(model))
        if merged:
            _merge(model.encoder.hf)
            model.encoder.changed()


class LoRA(Peft):
    """Updates of low rank: W + alpha / r B A (Hu et al. 2022, "LoRA", section 4.1)."""

    name = "lora"
    can_merge = True

    def peft_config(self, model: TextModel) -> Any:
        """Return a configuration for the linear layers that are wanted. Raises `UsageError` for names that there are none of."""
        from peft import LoraConfig

        names = self._targets(model.encoder.base)
        prefix = _prefix(model)
        conv1d = any(not isinstance(model.encoder.base.get_submodule(name), nn.Linear) for name in names)
        return LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.lora_alpha,
            lora_dropout=self.config.lora_dropout,
            target_modules=[prefix + name for name in names],
            fan_in_fan_out=conv1d,
            use_dora=self.name == "dora",
        )

    def _targets(self, base: nn.Module) -> list[str]:
        every = places.linear_layers(base)
        if self.config.targets is None:
            return every
        wanted = [word.strip() for word in self.config.targets.split(",") if word.strip()]
        for word in wanted or [self.config.targets]:
            if not places.found(base, [word]) or not set(places.found(base, [word])) & set(every):
                known = list(dict.fromkeys(name.rpartition(".")[2] for name in every))
                raise UsageError(
                    f"{setting('targets')}: the encoder has no linear layer {word!r}.{did_you_mean(word, known)} "
                    f"It has {listing(known, 40)}."
                )
        return [name for name in every if name in places.found(base, wanted)]


class DoRA(LoRA):
    """LoRA on the directions of weights, with a magnitude for each output (Liu et al. 2024, "DoRA", section 4)."""

    name = "dora"


class IA3(Peft):
    """Factors of keys, values and the inner activations of feed-forward layers (Liu et al. 2022, section 3.3)."""

    name = "ia3"
    can_merge = True

    def peft_config(self, model: TextModel) -> Any:
        """Return a configuration for the architecture. Raises `ModelError` for one whose parts are not known by name."""
        from peft import IA3Config

        base = model.encoder.base
        inner = places.found(base, places.FEED_FORWARD_OUT, but=places.ATTENTION_OUT)
        keys = places.found(base, [*places.KEYS, *places.VALUES, *places.FUSED])
        if not inner or not keys:
            raise ModelError(
                f"{setting('tuning', self.name)} does not know where a model of type {base.config.model_type!r} has its keys, values and "
                f"feed-forward layers. Take {setting('tuning', 'lora')}."
            )
        conv1d = any(not isinstance(base.get_submodule(name), nn.Linear) for name in keys)
        prefix = _prefix(model)
        return IA3Config(
            target_modules=_pattern([prefix + name for name in [*keys, *inner]]),
            feedforward_modules=_pattern([prefix + name for name in inner]),
            fan_in_fan_out=conv1d,
        )


class SoftPrompt(Peft):
    """Virtual tokens before each text: `prompt`, `ptuning` and `prefix`; `model.soft_prompts` runs them."""

    def peft_config(self, model: TextModel) -> Any:
        """Return a configuration. Raises `UsageError` where virtual tokens and text together are longer than the encoder allows."""
        import peft

        encoder, count = model.encoder, self.config.virtual_tokens
        limit, length = position_limit(encoder.config), int(encoder.tokenizer.model_max_length)
        if limit is not None and length + count > limit:
            raise UsageError(
                f"{setting('virtual_tokens')} {count} and {setting('max_length')} {length} are more than the {limit} positions of the "
                f"encoder. Take {setting('max_length', limit - count)} at most."
                if count < limit - 4
                else f"{setting('virtual_tokens')} {count} leaves no place for a text: the encoder has {limit} positions."
            )
        size = encoder.hf.get_input_embeddings().weight.shape[1]
        kinds = {
            "prompt": lambda **told: peft.PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **told),
            "ptuning": lambda **told: peft.PromptEncoderConfig(encoder_hidden_size=size, **told),
            "prefix": peft.PrefixTuningConfig,
        }
        return kinds[self.name](
            num_virtual_tokens=count,
            token_dim=encoder.width if self.name == "prefix" else size,
            num_layers=encoder.layers,
            num_attention_heads=int(encoder.config.num_attention_heads),
        )

    def attach(self, model: TextModel) -> None:
        """Put the virtual tokens before each text."""
        super().attach(model)
        put_virtual(model, self.peft, self.name, computed=True)

    def runs_in_peft(self, model: TextModel) -> bool:
        """Not a decoder's last token, which transformers does not find among vectors, nor prefixes where no past ones are taken.

        Nor questions for an encoder that tells segments apart: PEFT leaves them out of its input.
        """
        if isinstance(model.head, CheckpointHead) and model.encoder.is_decoder:
            return False
        if task_type(model) == "QUESTION_ANS" and model.encoder.tells_segments_apart:
            return False
        return self.name != "prefix" or "past_key_values" in inspect.signature(model.encoder.base.forward).parameters


class Prompt(SoftPrompt):
    """Vectors of virtual tokens (Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning")."""

    name = "prompt"


class PTuning(SoftPrompt):
    """Vectors of virtual tokens that a small network makes (Liu et al. 2021, "GPT Understands, Too", section 3)."""

    name = "ptuning"


class Prefix(SoftPrompt):
    """Keys and values of virtual tokens in every layer (Li and Liang 2021, "Prefix-Tuning", section 4)."""

    name = "prefix"


def put_virtual(model: TextModel, peft: Any, way: str, *, computed: bool) -> None:
    """Have the encoder of `model` run with the virtual tokens that the PEFT model `peft` holds."""
    learned, count = peft.prompt_encoder["default"], peft.peft_config["default"].num_virtual_tokens
    if way == "prefix":
        put_prefix(model.encoder, learned, count=count, computed=computed, way=way)
    else:
        put_before(model.encoder, learned, count=count, computed=computed)


def attach_saved(model: TextModel, way: str, directory: Path) -> None:
    """Put the adapter in PEFT's format in `directory` into the encoder of `model`. Raises `ModelError` for a damaged one."""
    import peft

    try:
        with quiet():
            found = peft.PeftModel.from_pretrained(model.encoder.hf, str(directory))
    except Exception as error:
        raise ModelError(
            f"the adapter in {directory} cannot be loaded: {type(error).__name__}: {str(error).strip()[:300]}. "
            "Restore it from a copy, or train again."
        ) from error
    _drop_originals(model.encoder.hf)
    if way in PROMPTS:
        put_virtual(model, found, way, computed=False)
    model.encoder.changed()


def task_type(model: TextModel) -> str | None:
    """Return PEFT's word for what the model is for; None where it has none."""
    if isinstance(model.head, CheckpointMaskedHead):
        return None
    if isinstance(model.head, CheckpointTokenHead):
        return "QUESTION_ANS" if hasattr(model.encoder.hf, "qa_outputs") else "TOKEN_CLS"
    return "SEQ_CLS" if isinstance(model.head, CheckpointHead) else "FEATURE_EXTRACTION"


def modules_of_head(model: TextModel) -> list[str] | None:
    """Return the names of transformers' modules that are trained as they are: head and pooler; None where there are none."""
    if not isinstance(model.head, CheckpointHead | CheckpointTokenHead):
        return None
    hf, base = model.encoder.hf, model.encoder.base
    names = [name for name, module in hf.named_children() if module is not base and any(True for _ in module.parameters())]
    if isinstance(model.head, CheckpointHead) and getattr(base, "pooler", None) is not None:
        names.append(f"{hf.base_model_prefix}.pooler")
    return names


def _drop_originals(hf: nn.Module) -> None:
    """Let go of the untrained head and pooler that PEFT keeps beside the trained ones."""
    from peft.utils import ModulesToSaveWrapper

    for module in hf.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.original_module = nn.Identity()


def merge_adapter(model: TextModel) -> None:
    """Add a loaded adapter to the weights of its encoder, which becomes the model's own. Raises `ModelError` for one that cannot be."""
    assert model.adapter is not None
    if model.adapter.way not in ("lora", "dora", "ia3"):
        raise ModelError(
            f"a model of {setting('tuning', model.adapter.way)} cannot be trained further: what was trained cannot be added to the weights "
            "of its encoder. Train again on all rows."
        )
    for module in list(model.encoder.base.modules()):  # no other model's weights may change
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
    _merge(model.encoder.hf)
    model.adapter, model.encoder.shared = None, None
    model.requires_grad_(True)
    model.encoder.changed()


def _merge(hf: nn.Module) -> None:
    """Add what was trained to the weights of `hf`, and take PEFT's modules out of it.

    PEFT's own `merge_and_unload` fails for (IA)^3 beside a trained module of several layers, as a pooler is.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(hf.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            places.put(hf, name, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            places.put(hf, name, module.modules_to_save["default"])
    del hf.peft_config


def _prefix(model: TextModel) -> str:
    """Return what stands before the names of the body's modules in the transformers model."""
    return f"{model.encoder.hf.base_model_prefix}." if model.encoder.has_head else ""


def _pattern(names: list[str]) -> str:
    """Return a regular expression for module names, the layers' numbers left open."""
    return "|".join(dict.fromkeys(re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names))
