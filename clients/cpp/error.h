// Calls that failed.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>

#include "quire/v1/inference.pb.h"

namespace quire {

// A call, or a request in a call of many, that failed. `what()` is the server's message: for INVALID_ARGUMENT the
// field, what is allowed, and the value.
class Error : public std::runtime_error {
 public:
  explicit Error(const grpc::Status& status);
  explicit Error(const v1::GenerateFailure& failure);

  grpc::StatusCode code() const { return code_; }

  // Time after which the same request may be sent again. None: it would fail again, or the server does not know.
  std::optional<std::chrono::milliseconds> retry_after() const { return retry_after_; }

 private:
  grpc::StatusCode code_;
  std::optional<std::chrono::milliseconds> retry_after_;
};

}  // namespace quire
