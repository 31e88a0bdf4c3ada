"""What lies beside an extracted adapter's weights: its config, post's tokenizer, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.checkpoints.adapters.naming import is_conv1d
from pipeline.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pipeline.checkpoints.output import as_json
from pipeline.deltas.delta import Delta
from pipeline.deltas.signing import SUFFIX, Signer
from pipeline.operations.adapters.choosing import patterns
from pipeline.operations.adapters.writing import WeightsFile
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.release import identity
from pipeline.tensors.fingerprint import digest_bytes, fold_checkpoint


def peft_config(
    delta: Delta,
    ranks: Mapping[str, int],
    usual: int,
    *,
    saved: Sequence[str],
    biases: bool,
) -> dict[str, Any]:
    """The config that PEFT reads, of an adapter made of `delta`.

    ranks: of the factors, by module. usual: the rank where no pattern says otherwise. saved: modules
    that are held whole. biases: whether those of adapted layers are.
    """
    config, base = delta.manifest.post_config or {}, delta.manifest.base
    other = dict(patterns(ranks, usual))
    architectures = config.get("architectures") or [""]
    is_causal = str(architectures[0]).endswith("ForCausalLM")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if is_causal else None,
        "base_model_name_or_path": base.location.removeprefix("hf://") if base else None,
        "revision": base.revision if base else None,
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "lora_dropout": 0.0,
        "rank_pattern": other,
        "alpha_pattern": other,
        "bias": "lora_only" if biases else "none",
        "fan_in_fan_out": any(is_conv1d(config, module) for module in ranks),
        "target_modules": list(ranks),
        "modules_to_save": list(saved) or None,
    }


def other_files(
    delta: Delta,
    config: Mapping[str, Any],
    weights: WeightsFile,
    facts: Mapping[str, Any],
    signer: Signer | None,
) -> dict[str, bytes]:
    """Content by name of every file but the weights, the config last.

    weights: as it was written. facts: what the provenance is to say beside base and delta.
    """
    manifest = delta.manifest
    files = {**delta.read_companions(), ADAPTER_CONFIG: as_json(config)}
    source = {"location": delta.location, "scale": 1.0, "fingerprint": str(manifest.fingerprint)}
    sides = {"base": identity(manifest.base), "post": identity(manifest.post)}
    found = weights.fingerprints
    provenance = Provenance(
        origin={"base": sides["base"], "deltas": [{**source, **sides}], "adapter": facts},
        fingerprint=fold_checkpoint(found),
        tensors=found,
        shards={ADAPTER_WEIGHTS[0]: weights.header},
        files={name: digest_bytes(content) for name, content in sorted(files.items())},
    ).to_json()
    signed = {PROVENANCE: provenance}
    if signer is not None:
        signed[PROVENANCE + SUFFIX] = signer.sign(PROVENANCE, digest_bytes(provenance))
    return {**signed, **files}
