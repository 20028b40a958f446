"""Prices of models out of a litellm wheel, as the lines of src/cost_usd.rs: pip download --no-deps litellm==<version>, then
python3 prices.py <wheel>. A model whose price depends on anything but the number of tokens is left out: it would be wrong."""
import json
import sys
import zipfile
from decimal import Decimal

PROVIDERS = ("anthropic", "gemini", "mistral", "openai", "voyage")
FLAT = {"input_cost_per_token", "output_cost_per_token"}
# What a caller asks for by name, and does not get by the plain call: they leave the plain call's price alone.
ASKED_FOR = ("batch", "batches", "flex", "priority")


def flat(model):
    """Whether a model costs so much per token in and out, and nothing else."""
    for key in model:
        if not key.startswith(("input_cost", "output_cost")) or key in FLAT or key.endswith(ASKED_FOR):
            continue
        return False
    return "tiered_pricing" not in model and FLAT <= model.keys() and model["input_cost_per_token"] > 0


def main(wheel):
    with zipfile.ZipFile(wheel) as archive:
        models = json.loads(archive.read("litellm/model_prices_and_context_window_backup.json"), parse_float=Decimal)
    prices = {}
    for name, model in models.items():
        if model.get("litellm_provider") not in PROVIDERS or model.get("mode") not in ("chat", "embedding", "responses"):
            continue
        name = name.removeprefix(model["litellm_provider"] + "/")
        if flat(model) and not set(name) & set("/:"):
            per_million = tuple(Decimal(model[k]) * 1_000_000 for k in sorted(FLAT))
            prices.setdefault(name, set()).add(per_million)
    for name, found in sorted(prices.items()):
        if len(found) == 1:
            print(name, *(f"{p.normalize():f}" for p in found.pop()))


main(sys.argv[1])
