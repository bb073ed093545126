"""What an operator says about the app, as environment variables of `modal deploy`; the containers get the same."""

import dataclasses
import re

# Beacon's regions and Modal's names for where containers stand.
REGIONS = {"us-east": "us-east", "eu-west": "eu-west", "asia-pacific": "ap-southeast"}

# The words are Modal's and the price book's alike: a bill names its SKU by them.
GPUS = ("T4", "L4", "A10", "L40S", "A100-40GB", "A100-80GB", "H100")

MODEL = re.compile(r"(?P<name>[^=,\s]+)=(?P<repository>[^@:,\s]+)(@(?P<revision>[^:,\s]+))?:(?P<gpu>[^:,\s]+)")


class SettingsError(ValueError):
    """A variable that breaks its rule. Its text names both."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as Beacon names it, where its weights are, and the GPU it runs on."""

    name: str
    repository: str
    revision: str | None
    gpu: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything the app can be told."""

    region: str
    modal_region: str
    models: tuple[Model, ...]
    # Containers of one model, and inputs of one container. Their product is the most `slots` a pool may have.
    max_containers: int
    max_inputs: int
    # How long an idle container stays, and is billed: `idle` of the pool.
    scaledown_s: int
    # More words for `vllm serve`.
    vllm_args: tuple[str, ...]
    # The Modal secret that holds HF_TOKEN, for models behind a licence.
    secret: str | None

    @classmethod
    def read(cls, environ):
        """Reads the variables. Raises `SettingsError`."""
        region = environ.get("BEACON_REGION", "us-east")
        place = environ.get("BEACON_MODAL_REGION") or REGIONS.get(region)
        if place is None:
            raise SettingsError(
                f"BEACON_REGION `{region}` must be one of {', '.join(REGIONS)}, or BEACON_MODAL_REGION says where"
            )
        if not re.fullmatch(r"[a-z0-9-]{1,40}", region):
            raise SettingsError(f"BEACON_REGION `{region}` must be small letters, digits and -")
        return cls(
            region=region,
            modal_region=place,
            models=models(environ.get("BEACON_MODELS", "qwen-2.5-1.5b=Qwen/Qwen2.5-1.5B-Instruct:L4")),
            max_containers=count(environ, "BEACON_MAX_CONTAINERS", 5, 1, 1_000),
            max_inputs=count(environ, "BEACON_MAX_INPUTS", 8, 1, 1_000),
            scaledown_s=count(environ, "BEACON_SCALEDOWN_S", 60, 2, 3_600),
            vllm_args=tuple(environ.get("BEACON_VLLM_ARGS", "").split()),
            secret=environ.get("BEACON_HF_SECRET") or None,
        )

    def environ(self):
        """The variables that `read` makes these settings of."""
        of_model = lambda m: f"{m.name}={m.repository}{f'@{m.revision}' if m.revision else ''}:{m.gpu}"
        return {
            "BEACON_REGION": self.region,
            "BEACON_MODAL_REGION": self.modal_region,
            "BEACON_MODELS": ",".join(map(of_model, self.models)),
            "BEACON_MAX_CONTAINERS": str(self.max_containers),
            "BEACON_MAX_INPUTS": str(self.max_inputs),
            "BEACON_SCALEDOWN_S": str(self.scaledown_s),
            "BEACON_VLLM_ARGS": " ".join(self.vllm_args),
            "BEACON_HF_SECRET": self.secret or "",
        }

    def model(self, name):
        """The model of this name, or None."""
        return next((model for model in self.models if model.name == name), None)


def models(text):
    """Reads `name=repository[@revision]:GPU`, several with commas between them."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = MODEL.fullmatch(part)
        if match is None:
            raise SettingsError(f"BEACON_MODELS `{part}` must be name=repository[@revision]:GPU")
        if match["gpu"] not in GPUS:
            raise SettingsError(f"BEACON_MODELS `{part}`: GPU `{match['gpu']}` must be one of {', '.join(GPUS)}")
        found.append(Model(match["name"], match["repository"], match["revision"], match["gpu"]))
    names = [model.name for model in found]
    if not found or len(set(names)) < len(names):
        raise SettingsError("BEACON_MODELS must name at least one model, and none twice")
    return tuple(found)


def count(environ, name, usual, least, most):
    """A whole number within bounds."""
    text = environ.get(name, str(usual))
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise SettingsError(f"{name} `{text}` must be a whole number from {least} to {most}")
    return int(text)
