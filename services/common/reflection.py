"""Server reflection: what a server serves, for clients without the protos; as `grpc.reflection.v1` and `v1alpha`.

grpcio-reflection answers v1alpha only. Both versions have the same messages, only their package differs. So v1's
definition is made from v1alpha's, and one servicer answers both.
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

_V1, _V1ALPHA = "grpc.reflection.v1", "grpc.reflection.v1alpha"
_SERVICE = "ServerReflection"


def enable_reflection(names: Sequence[str], server: grpc.aio.Server) -> None:
    """Adds both versions to a server.

    Args:
        names: full names of the server's other services.
    """
    descriptor_pool.Default().AddSerializedFile(_v1_file())
    servicer = reflection.aio.ReflectionServicer([*names, f"{_V1}.{_SERVICE}", f"{_V1ALPHA}.{_SERVICE}"])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    v1 = grpc.method_handlers_generic_handler(f"{_V1}.{_SERVICE}", {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((v1,))


def _v1_file() -> bytes:
    """The FileDescriptorProto of v1, serialized."""
    v1alpha = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
    v1alpha.name = "grpc/reflection/v1/reflection.proto"
    text = text_format.MessageToString(v1alpha).replace(_V1ALPHA, _V1)
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto()).SerializeToString()
