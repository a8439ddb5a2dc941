"""What the service says of itself and of its model."""

from typing import Final

from quire.engine.api.errors import InvalidRequest
from quire.engine.api.version import __version__
from quire.kserve import open_inference_pb2 as pb
from quire.services.frontend.inference import Inference
from quire.services.frontend.kserve.answer import MODEL_VERSION
from quire.services.frontend.kserve.signature import INPUTS, MAX_BATCH, OUTPUTS, TEXT_INPUT

PLATFORM: Final = "quire"
EXTENSIONS: Final = ("model_configuration", "model_repository", "statistics")
_DATA_TYPES: Final = {"BYTES": pb.TYPE_STRING}


def check_model(inference: Inference, name: str, version: str = "") -> str:
    """The adapter that a model's name stands for; "" for the model itself.

    Raises:
        UnknownModel: it stands for nothing here.
        InvalidRequest: there is no such version.
    """
    adapter = inference.adapter(name)
    if version not in ("", MODEL_VERSION):
        raise InvalidRequest("model_version", version, f"must be {MODEL_VERSION!r}, or left out")
    return adapter


def server_metadata() -> pb.ServerMetadataResponse:
    return pb.ServerMetadataResponse(name="quire", version=__version__, extensions=EXTENSIONS)


def model_metadata(name: str) -> pb.ModelMetadataResponse:
    """Shapes with the batch in front."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=name,
        versions=[MODEL_VERSION],
        platform=PLATFORM,
        inputs=[tensor(name=each.name, datatype=each.datatype, shape=(-1, *each.dims)) for each in INPUTS.values()],
        outputs=[tensor(name=each.name, datatype=each.datatype, shape=(-1, *each.dims)) for each in OUTPUTS.values()],
    )


def model_config(name: str) -> pb.ModelConfig:
    """Shapes without the batch, and which inputs may be left out."""
    return pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=MAX_BATCH,
        input=[
            pb.ModelInput(
                name=each.name, data_type=_data_type(each.datatype), dims=each.dims, optional=each.name != TEXT_INPUT
            )
            for each in INPUTS.values()
        ],
        output=[
            pb.ModelOutput(name=each.name, data_type=_data_type(each.datatype), dims=each.dims)
            for each in OUTPUTS.values()
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
    )


def _data_type(datatype: str) -> pb.DataType.ValueType:
    return _DATA_TYPES.get(datatype) or pb.DataType.Value(f"TYPE_{datatype}")
