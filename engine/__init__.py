"""The engine: everything that serves a model in one process. It knows neither gRPC nor protobuf."""
